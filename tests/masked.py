"""The oracle of pruning: the whole prompt through every layer, with removed keys masked. Slow and obvious, no cache, no hooks.

A token removed before layer l is still computed on, but no later row may attend to it, so what it holds no longer
matters. Which tokens are removed is decided here once more, in plain Python, from eager attention weights. Works for
one row (batch size 1). Imports nothing of what it judges: scores are known by the names of their classes.
"""

import torch

BEFORE = -1  # the layer after which cuts before layer 0 are said to come


@torch.inference_mode()
def masked_run(decoder, lm_head, embeds, cuts, n_new, position_embeddings, layout=None):
    """Greedy decoding under per-layer masks.

    decoder: object with `.layers` and `.norm`; embeds [1, N, D]; cuts: layer -> tuple of Cut; position_embeddings(n)
    -> (cos, sin) of n positions; layout: for scores from features. Returns (kept original positions per layer at prefill,
    logits [n_new, V], new ids).
    """
    n_prompt = embeds.shape[1]
    embed_tokens, ids, logits = decoder.embed_tokens, [], []
    known = {}  # of scores from features
    for index in sorted(cuts):
        for cut in cuts[index]:
            if hasattr(cut.score, "compute"):
                known[cut.score], rows = cut.score.compute(layout, embeds[0])
                embeds = embeds if rows is None else rows[None]
    entered = _cut(list(range(n_prompt)), cuts.get(BEFORE, ()), known)
    kept = None
    for _ in range(n_new):
        n = embeds.shape[1]
        hidden, present, found = embeds, entered, []
        for index, layer in enumerate(decoder.layers):
            present = present if kept is None else kept[index]
            found.append(list(present))
            allowed = torch.zeros(n, dtype=torch.bool)
            allowed[present] = True
            allowed[n_prompt:] = True
            visible = torch.ones(n, n, dtype=torch.bool).tril() & allowed
            visible |= torch.eye(n, dtype=torch.bool)  # a removed row must see something, or its softmax is NaN
            mask = torch.zeros(n, n, dtype=embeds.dtype).masked_fill(~visible, torch.finfo(embeds.dtype).min)[None, None]
            cos_sin = position_embeddings(n)
            own, hidden = _attention(layer, hidden, mask, cos_sin)
            if kept is None and index in cuts:
                maps = known | {"own": own, "again": _attention(layer, hidden, mask, cos_sin)[0]}
                maps["next"] = _attention(decoder.layers[index + 1], hidden, mask, cos_sin)[0]
                present = _cut(present, cuts[index], maps)
        kept = kept or found
        row = lm_head(decoder.norm(hidden[:, -1]))[0]
        logits.append(row)
        ids.append(int(row.argmax()))
        embeds = torch.cat([embeds, embed_tokens(torch.tensor([[ids[-1]]]))], 1)
    return kept, torch.stack(logits), ids


def _attention(layer, hidden, mask, cos_sin):
    """(the layer's attention averaged over heads [n, n], its output [1, n, D])."""
    weights = []
    handle = layer.self_attn.register_forward_hook(lambda module, args, output: weights.append(output[1]))
    output = layer(hidden, attention_mask=mask, position_embeddings=cos_sin)
    handle.remove()
    return weights[0][0].mean(0), output


def _cut(present, cuts, maps):
    """Remove the n lowest (or highest) candidates; of equals the later one first. maps: attention by weights, values by score."""
    for cut in cuts:
        candidates = [p for p in present if cut.candidates[p]]
        values = _values(cut.score, present, maps)
        sign = -1 if cut.remove == "high" else 1
        gone = set(sorted(candidates, key=lambda p: (sign * float(values[p]), -p))[: cut.n_removed])
        present = [p for p in present if p not in gone]
    return present


def _values(score, present, maps):
    """Original position -> score."""
    match type(score).__name__:
        case "FromFeatures":
            return maps[score]
        case "Known":
            return score.by_position
        case "LastQuery":
            return maps[score.weights][-1]
        case "QuestionMean":
            return sum(maps[score.weights][int(row)] for row in score.question) / len(score.question)
        case "BestOfGroups":
            inner, values = _values(score.score, present, maps), {}
            for group, n_kept in enumerate(score.n_kept):
                members = sorted((p for p in present if score.group[p] == group), key=lambda p: (-float(inner[p]), p))
                values |= {p: float(place < n_kept) for place, p in enumerate(members)}
            return values
    raise AssertionError(f"no oracle for {score}")
