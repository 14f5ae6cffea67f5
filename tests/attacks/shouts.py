"""Tries to fill or to fool the terminal, the database and the page: an exception of ten megabytes, with control codes
in its text and in its type's name.
"""

import honest


class ShoutingEncoder(honest.HonestEncoder):
    def forward(self, audio, mask=None):
        kind = type("\x1b[31m\u202e<script>" * 100, (Exception,), {})
        raise kind("\x1b]0;owned\x07<script>alert(1)</script>" + "A" * 10_000_000)
