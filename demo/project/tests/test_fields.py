import unittest

from minicron.fields import parse_field


class Fields(unittest.TestCase):
    def test_star_is_every_value(self) -> None:
        self.assertEqual(parse_field("*", 0, 3), {0, 1, 2, 3})

    def test_lists_ranges_and_steps(self) -> None:
        self.assertEqual(parse_field("1,5-7", 0, 59), {1, 5, 6, 7})
        self.assertEqual(parse_field("10-50/15", 0, 59), {10, 25, 40})
        self.assertEqual(parse_field("50/4", 0, 59), {50, 54, 58})

    def test_what_is_no_field_is_refused(self) -> None:
        for text in ("", "x", "60", "5-1", "*/0", "1-", "-1", "1,,2"):
            with self.subTest(text), self.assertRaises(ValueError):
                parse_field(text, 0, 59)


if __name__ == "__main__":
    unittest.main()
