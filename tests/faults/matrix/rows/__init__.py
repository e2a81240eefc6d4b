"""The rows. Importing this package fills `row.ROWS`."""

from tests.faults.matrix.rows import clock as clock
from tests.faults.matrix.rows import engine as engine
from tests.faults.matrix.rows import hostile as hostile
from tests.faults.matrix.rows import journal as journal
from tests.faults.matrix.rows import network as network
from tests.faults.matrix.rows import processes as processes
from tests.faults.matrix.rows import proxies as proxies
from tests.faults.matrix.rows import sandbox as sandbox
from tests.faults.matrix.rows import server as server
from tests.faults.matrix.rows import streams as streams
from tests.faults.matrix.rows import transport as transport
