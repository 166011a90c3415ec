"""Shared fixtures: random models small enough to run in milliseconds, and layouts for them."""

import inspect
import signal

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM
from transformers.models.qwen2 import modeling_qwen2

from fastav.layout import TokenLayout, first_audio

N_LAYERS = 6

# A runner in the background may hand down that Ctrl-C is ignored; the programs that are tested must get it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_report_header(config):
    return "not in this run: make test-browser (needs Chromium), make slow, make fuzz, make mutants"


@pytest.fixture
def layout():
    """5 text, 4 frames of 6 video tokens, 30 audio tokens, 7 text: N = 66; the model's rule keeps the video and 5
    audio tokens.
    """
    layout = TokenLayout.of(("text", 5), ("video", 24, 4), ("audio", 30), ("text", 7))
    return layout.with_facts(rule_keep=first_audio(layout, 5), request_id="clip and question")


@pytest.fixture(autouse=True)
def float64_throughout(monkeypatch):
    """transformers computes eager softmax and RMSNorm in float32 even in a float64 model; equality to 1e-10 needs float64."""
    softmax = torch.nn.functional.softmax

    def wide_softmax(x, dim=None, dtype=None, **kwargs):
        return softmax(x, dim=dim, dtype=None if x.dtype == torch.float64 else dtype, **kwargs)

    def wide_norm(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon))

    norm = modeling_qwen2.Qwen2RMSNorm.forward
    monkeypatch.setattr(torch.nn.functional, "softmax", wide_softmax)
    monkeypatch.setattr(
        modeling_qwen2.Qwen2RMSNorm, "forward", lambda self, x: (wide_norm if x.dtype == torch.float64 else norm)(self, x)
    )


def random_qwen2(attn="eager", n_layers=N_LAYERS, **settings):
    """A stock Qwen2 in float64 with attention peaked enough that scores differ, greedy by default."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=97,
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=n_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        attn_implementation=attn,
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
        **settings,
    )
    return Qwen2ForCausalLM(config).double().eval()


@pytest.fixture
def model():
    return random_qwen2()


def greedy(model, n_new=6, **inputs):
    """(new ids, logits [n_new, V] in the model's own dtype) of the stock generate."""
    logits = []
    handle = model.lm_head.register_forward_hook(lambda module, args, output: logits.append(output[0, -1]))
    try:
        out = model.generate(**inputs, max_new_tokens=n_new, do_sample=False)
    finally:
        handle.remove()
    return out[0, -n_new:].tolist(), torch.stack(logits)


def holding(model, cache):
    """`cache` under the name that this transformers has for it: greedy(model, **holding(model, cache))."""
    names = inspect.signature(model.forward).parameters
    return {"cache" if "cache" in names else "past_key_values": cache}


def prompt(model, n=66, seed=1):
    """Random token ids [1, n]."""
    torch.manual_seed(seed)
    return torch.randint(0, model.config.vocab_size, (1, n))


def rotary(model):
    """What masked_run wants: n -> (cos, sin) of n positions."""
    return lambda n: model.model.rotary_emb(torch.zeros(1, 1, dtype=torch.float64), torch.arange(n)[None])


@pytest.fixture(scope="session")
def videos(tmp_path_factory):
    """`videos / name` is the path of a file of `footage.VIDEOS`."""
    from footage import Videos  # imports PyAV, which few tests need

    return Videos(tmp_path_factory.mktemp("videos"))


@pytest.fixture
def in_this_process(monkeypatch):
    """read_clip without its child: what is done can be counted, and hundreds of files are read in seconds."""
    from fuzz_media import call_here

    monkeypatch.setattr("fastav.clip.child.call", call_here)
