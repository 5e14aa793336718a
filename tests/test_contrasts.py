"""The patterns of missing contrasts."""

from mrsynth.contrasts import Contrast, pattern_name, patterns, spelled


def test_fourteen_patterns() -> None:
    found = patterns()

    assert len(found) == len(set(found)) == 14
    assert pattern_name(reversed(found[0])) == "t1+t1ce+t2"


def test_patterns_are_spelled_as_radiologists_do() -> None:
    assert spelled("t1+t1ce+flair") == spelled([Contrast.T1, Contrast.T1CE, Contrast.FLAIR]) == "T1+T1ce+FLAIR"
