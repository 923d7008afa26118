"""Every method that configs/method names can be planned on a real shape: it runs on fake tensors, or says why not and
gives a bound."""

import pytest

from kvfrontier.runners import compose
from kvfrontier.runners.plan import words
from kvfrontier.runners.plan.ask import row

compose.register()
#: A model with latents for methods that hold these.
OF_LATENTS = {"mla", "mla_expanded", "mla_quantized"}


@pytest.mark.slow
@pytest.mark.parametrize("name", compose.names("method"))
def test_it_is_planned_at_4096_tokens(name):
    if name in OF_LATENTS:
        found = row(words.read(["model=deepseek-v3", f"method={name}", "context=4096"])[0])
    else:
        found = row(words.read(["model=llama-3.2-1b", f"method={name}", "context=4096"])[0])
    assert found["fits"] is not None, found["note"]
    assert found["peaks_exact"] or "peaks are bounds" in found["note"]
    # The state is the one at the end: what reads its passages when asked (rag) holds less while the prompt is read.
    peak = max(found["prefill_peak_bytes"], found["decode_peak_bytes"])
    assert peak >= found["weights_bytes"] + found["state_bytes"] - found["host_bytes"]
