"""What is measured, in the order in which it is measured and shown."""

from __future__ import annotations

from scripts.benchmarks.bench import Section
from scripts.benchmarks.sections.cost import COST
from scripts.benchmarks.sections.history import HISTORY
from scripts.benchmarks.sections.latency import LATENCY
from scripts.benchmarks.sections.leaks import LEAKS
from scripts.benchmarks.sections.many import MANY
from scripts.benchmarks.sections.output import OUTPUT
from scripts.benchmarks.sections.profile import PROFILE
from scripts.benchmarks.sections.sandboxes import SANDBOXES
from scripts.benchmarks.sections.stream import STREAM
from scripts.benchmarks.sections.throughput import THROUGHPUT
from scripts.benchmarks.sections.transfers import TRANSFERS

SECTIONS: dict[str, Section] = {
    section.name: section for section in (LATENCY, THROUGHPUT, STREAM, OUTPUT, TRANSFERS, SANDBOXES, COST, MANY, HISTORY, LEAKS, PROFILE)
}
