"""The static page: boards and submissions in, a folder of HTML, CSV and JSON out. It formats; every number is given.

`text` writes numbers and names, `charts` computes the geometry of the drawings, `track_view` and `submission_view` say
what the templates see, `export` makes data.json and the CSV files, `render` puts it together and swaps the folder.
"""

from ranker.site.pages import Sample, SubmissionPage, TrackRun
from ranker.site.render import put_in_place, render

__all__ = ["Sample", "SubmissionPage", "TrackRun", "put_in_place", "render"]
