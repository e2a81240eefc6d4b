import unittest
from datetime import datetime

from minicron import Schedule


class NextRun(unittest.TestCase):
    def assert_next(self, expression: str, after: str, expected: str) -> None:
        self.assertEqual(Schedule(expression).next_run(datetime.fromisoformat(after)), datetime.fromisoformat(expected))

    def test_next_minute(self) -> None:
        self.assert_next("* * * * *", "2026-03-02 08:45", "2026-03-02 08:46")

    def test_later_the_same_hour(self) -> None:
        self.assert_next("0,30 9 * * *", "2026-03-02 09:10", "2026-03-02 09:30")

    def test_at_the_start_of_a_later_hour(self) -> None:
        self.assert_next("0,30 9 * * *", "2026-03-02 08:45", "2026-03-02 09:00")

    def test_next_working_day(self) -> None:
        self.assert_next("0 9 * * 1-5", "2026-03-06 09:00", "2026-03-09 09:00")

    def test_next_year(self) -> None:
        self.assert_next("0 0 1 1 *", "2026-01-01 00:00", "2027-01-01 00:00")

    def test_leap_day(self) -> None:
        self.assert_next("0 0 29 2 *", "2026-03-01 00:00", "2028-02-29 00:00")

    def test_both_day_fields_restricted_means_either(self) -> None:
        self.assert_next("0 0 13 * 5", "2026-03-10 00:00", "2026-03-13 00:00")
        self.assert_next("0 0 13 * 5", "2026-03-13 00:00", "2026-03-20 00:00")

    def test_never(self) -> None:
        self.assertIsNone(Schedule("0 0 31 2 *").next_run(datetime(2026, 1, 1)))


if __name__ == "__main__":
    unittest.main()
