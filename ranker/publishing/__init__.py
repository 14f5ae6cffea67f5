"""From a preview to a publication: what may be seen by everybody, under which names, from when on, and since when.

`reading` takes all text out of a rendered folder, `gate` refuses what must not be in it, and `knowledge` says what that
is in this home; `pseudonyms` are the names of teams that stay unknown, `embargo` is a time that has to come;
`versions` keeps each publication, `changes` tells two apart, and `publication` puts it together.
"""
