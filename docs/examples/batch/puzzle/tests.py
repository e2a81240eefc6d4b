"""What a candidate's answer.py is judged by: the sum of the numbers from 1 to n."""

import unittest

from answer import answer


class Tests(unittest.TestCase):
    def test_small(self):
        self.assertEqual([answer(n) for n in range(5)], [0, 1, 3, 6, 10])

    def test_large(self):
        self.assertEqual(answer(10**6), 500_000_500_000)


if __name__ == "__main__":
    unittest.main()
