"""The slow part: `next_run` jumps, and must land on just those minutes that walking through five whole years finds."""

import unittest
from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import zip_longest

from minicron import Schedule

START, END = datetime(2027, 12, 31), datetime(2033, 1, 1)  # with two leap days
MINUTE = timedelta(minutes=1)


def walk(schedule: Schedule) -> Iterator[datetime]:
    moment = START + MINUTE
    while moment < END:
        if schedule.matches(moment):
            yield moment
        moment += MINUTE


def jump(schedule: Schedule) -> Iterator[datetime]:
    run = schedule.next_run(START)
    while run is not None and run < END:
        yield run
        run = schedule.next_run(run)


class Walk(unittest.TestCase):
    def assert_same(self, expression: str) -> None:
        schedule = Schedule(expression)
        for jumped, walked in zip_longest(jump(schedule), walk(schedule)):
            self.assertEqual(jumped, walked)

    def test_every_quarter_of_an_hour_on_working_days(self) -> None:
        self.assert_same("*/15 9-17 * * 1-5")

    def test_odd_minutes_at_odd_hours(self) -> None:
        self.assert_same("7,37,59 1-23/2 * * *")

    def test_leap_day(self) -> None:
        self.assert_same("59 23 29 2 *")

    def test_thirteenth_or_friday(self) -> None:
        self.assert_same("0 0,12 13 * 5")

    def test_ends_of_long_months(self) -> None:
        self.assert_same("30 4 31 */2 *")

    def test_every_hour_of_the_first_week(self) -> None:
        self.assert_same("0 * 1-7 * *")


if __name__ == "__main__":
    unittest.main()
