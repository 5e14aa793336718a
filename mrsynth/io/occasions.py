"""When a scan was made, as far as its file name tells: a date, a visit, before or after treatment.

Scans of two occasions are never one examination, even where no contrast is there twice.
"""

import re

_DATE = re.compile(r"(?<!\d)((?:19|20)\d\d)([-_.]?)(0[1-9]|1[0-2])\2(0[1-9]|[12]\d|3[01])(?=\d{6}(?!\d)|(?!\d))")
_COUNTED = r"(?:tp|time|time[-_. ]?point|visit|ses|session|week|wk|month|day|year)[-_. ]?\d{1,4}"
_LETTERED = r"(?:tp|time|time[-_. ]?point|visit|session)[-_. ]?[a-e]|ses-[a-z]+"
_VISIT = re.compile(rf"(?i)(?<![a-z0-9])(?:{_COUNTED}|{_LETTERED}|m\d\d)(?![a-z0-9])")
_STAGE = re.compile(
    r"(?i)(?<![a-z0-9])(?:baseline|bl|screening|follow[-_. ]?up|fu|fup"
    r"|(?:pre|post|before|after)[-_. ]?(?:op|surg|treat|therap|rt|chemo)[a-z]*)\d*(?![a-z0-9])"
)


def occasion_in(stem: str) -> str:
    """What the stem of a file name says of when: `20100302`, `visit1`, `followup`; "" for nothing.

    `P1_tp2_T1` -> tp2; `T1_visit_01` -> visit1; `T1_2010-03-02` and `T1_20100302101010_4` -> 20100302
    """
    if date := _DATE.search(stem):
        return date[1] + date[3] + date[4]
    found = _VISIT.search(stem) or _STAGE.search(stem)
    return re.sub(r"[-_. ]|(?<![0-9])0+(?=\d)", "", found[0]).lower() if found else ""
