"""The rows. Importing this package fills `row.ROWS`."""

from tests.faults.matrix.rows import server as server
