"""Makes the fonts that reports are set in (fhir_secondop/opinion/fonts) from Debian's packages of Noto.

typst brings its own Libertinus Serif for Latin, Greek, Cyrillic and Hebrew; these are for what that one lacks. Needs
fontTools (PyPI) in the environment that runs it, and the two packages unpacked:

    apt-get download fonts-noto-core fonts-noto-cjk
    for package in *.deb; do dpkg -x "$package" unpacked; done
    python tools/make_fonts.py unpacked
"""

from __future__ import annotations

import sys
from pathlib import Path

from fontTools import subset
from fontTools.ttLib import TTCollection, TTFont
from fontTools.ttLib.tables._c_m_a_p import CmapSubtable

FONTS = Path(__file__).parent.parent / "fhir_secondop" / "opinion" / "fonts"
SCRIPTS = (
    "NaskhArabic-Regular", "NaskhArabic-Bold", "SerifArmenian-Regular", "SerifBengali-Regular",
    "SerifDevanagari-Regular", "SerifEthiopic-Regular", "SerifGeorgian-Regular", "SerifGujarati-Regular",
    "SerifGurmukhi-Regular", "SerifKannada-Regular", "SerifKhmer-Regular", "SerifLao-Regular",
    "SerifMalayalam-Regular", "SerifMyanmar-Regular", "SerifSinhala-Regular", "SerifTamil-Regular",
    "SerifTelugu-Regular", "SerifThai-Regular",
)  # fmt: skip
CHARACTER_SETS = ("gbk", "big5hkscs", "cp932", "cp949")
"""Whose characters the Chinese, Japanese and Korean font keeps: names are rarer than prose, so the wide sets."""
CJK_FACE = "Noto Sans CJK SC"


def wanted() -> list[int]:
    """The characters of CHARACTER_SETS from CJK punctuation on, and every Hangul syllable."""
    found = set(range(0xAC00, 0xD7A4))
    for point in (*range(0x2E80, 0xA000), *range(0xF900, 0xFB00), *range(0xFF00, 0xFFF0)):
        if any(_encodes(chr(point), name) for name in CHARACTER_SETS):
            found.add(point)
    return sorted(found)


def _encodes(character: str, name: str) -> bool:
    try:
        character.encode(name)
    except UnicodeEncodeError:
        return False
    return True


def smaller(font: TTFont, points: list[int], features: list[str]) -> TTFont:
    """The font with these characters and layout features alone, without hints; its names and licence are kept."""
    cutter = subset.Subsetter(subset.Options(hinting=False, layout_features=features, name_IDs=["*"]))
    cutter.populate(unicodes=points)
    cutter.subset(font)
    # One table of 32 bits: in the 16-bit one that fontTools writes typst doesn't find some thirty characters of the
    # Chinese font, "博" and "？" among them.
    whole = CmapSubtable.newSubtable(12)
    whole.platformID, whole.platEncID, whole.language = 3, 10, 0
    whole.cmap = dict(font.getBestCmap())
    font["cmap"].tables = [whole]
    return font


def main(unpacked: Path) -> None:
    """All of them, each as it is written with its size."""
    FONTS.mkdir(exist_ok=True)
    for name in SCRIPTS:
        (source,) = unpacked.rglob(f"Noto{name}.ttf")
        font = TTFont(source, recalcTimestamp=False)
        _write(smaller(font, sorted(font.getBestCmap()), ["*"]), f"Noto{name}.ttf")
    (collection,) = unpacked.rglob("NotoSansCJK-Regular.ttc")
    faces = TTCollection(collection).fonts
    face = next(font for font in faces if font["name"].getDebugName(1) == CJK_FACE)
    # Its vertical and regional forms are most of its tables; what composes Hangul from its parts stays.
    _write(smaller(face, wanted(), ["ccmp", "ljmo", "vjmo", "tjmo"]), "NotoSansCJKsc-Regular.otf")


def _write(font: TTFont, name: str) -> None:
    font.save(FONTS / name)
    print(f"{(FONTS / name).stat().st_size:>9,} {name}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
