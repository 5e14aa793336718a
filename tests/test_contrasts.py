"""The patterns of missing contrasts."""

from mrsynth.contrasts import pattern_name, patterns


def test_fourteen_patterns() -> None:
    found = patterns()

    assert len(found) == len(set(found)) == 14
    assert pattern_name(reversed(found[0])) == "t1+t1ce+t2"
