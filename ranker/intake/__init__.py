"""From what was sent to an unpacked tree with one known encoder file."""
