"""What transformers before 5.23, the version that docs/coverage.md is made with, writes in another way."""

import pytest
import transformers
from packaging.version import Version

OLDER = Version(transformers.__version__) < Version("5.23")
#: Types that it cannot build, whose configs it spells otherwise, or that loop over slices of tokens which data decide.
NOT_YET = (
    frozenset(["aria_text", "gemma4_unified_assistant", "glm5_next", "qwen4_exp_text"])
    if OLDER
    else frozenset()
)
#: Decoders whose mask hides nothing there.
BIDIRECTIONAL = frozenset(["megatron-bert", "rembert"]) if OLDER else frozenset()
angles_by_product = pytest.mark.skipif(
    OLDER,
    reason="DeepSeek-V4 multiplies the angles of its compressed keys there, in steps that close a block alone: a few "
    "FLOPs that the graph of one step cannot hold",
)
