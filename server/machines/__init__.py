"""The rules, as tables: (state, event) → (state, instructions). No I/O, no clock, no import but of the wire models."""
