"""The likelihood suites by the name that a configuration calls them."""

from __future__ import annotations

from evals.bias.bbq import BBQ
from evals.bias.crows_pairs import CROWS_PAIRS
from evals.bias.gap import GAP
from evals.bias.occupations import BEC_PRO, WINOGENERATED
from evals.bias.stereoset import STEREOSET
from evals.bias.text_pairs import TEXT_PAIRS
from evals.bias.wino import WINOBIAS, WINOGENDER

SUITES = {
    suite.kind: suite
    for suite in (
        BBQ,
        BEC_PRO,
        CROWS_PAIRS,
        GAP,
        STEREOSET,
        TEXT_PAIRS,
        WINOBIAS,
        WINOGENDER,
        WINOGENERATED,
    )
}
