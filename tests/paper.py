"""A page as PDF, and what stands where on its sheets."""

from __future__ import annotations

import base64
import io
import re
from typing import Any

from pypdf import PdfReader
from selenium.webdriver import Chrome


def printed(driver: Chrome) -> list[tuple[str, float, float]]:
    """The words of the shown page in print, on sheets as its style asks for, and where each begins on its sheet.

    Places are shares of the sheet's width and height, from its lower left corner: outside 0 to 1 nobody can read them.
    """
    options = {"preferCSSPageSize": True, "printBackground": True}
    content = base64.b64decode(driver.execute_cdp_cmd("Page.printToPDF", options)["data"])
    found: list[tuple[str, float, float]] = []
    for sheet in PdfReader(io.BytesIO(content)).pages:
        width, height = float(sheet.mediabox.width), float(sheet.mediabox.height)

        def seen(
            text: str, to_sheet: Any, at: Any, _font: Any, _size: float, w: float = width, h: float = height
        ) -> None:
            x = at[4] * to_sheet[0] + at[5] * to_sheet[2] + to_sheet[4]
            y = at[4] * to_sheet[1] + at[5] * to_sheet[3] + to_sheet[5]
            found.extend((word, x / w, y / h) for word in re.findall(r"\S+", text))

        sheet.extract_text(visitor_text=seen)
    return found
