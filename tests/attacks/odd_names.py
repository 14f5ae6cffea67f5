"""Tries names that a terminal or a page would obey: control codes, a direction mark, markup, half a character."""

import honest

for name in ("\x1b[2JEncoder", "\u202eEncoder", "<script>alert(1)</script>Encoder", "[red]Encoder", "\ud800Encoder"):
    globals()[name] = honest.HonestEncoder
