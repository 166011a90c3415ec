"""The oracle of pruning: the whole prompt through every layer, with removed keys masked. Slow and obvious, no cache, no hooks.

A token removed before layer l is still computed on, but no later row may attend to it, so what it holds no longer
matters. Which tokens are removed is decided here once more, in plain Python, from eager attention weights. Works for
one row (batch size 1). Imports nothing of what it judges: scores are known by the names of their classes.
"""

import math

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
        case "Budgets":
            return _by_budgets(score, _values(score.score, present, maps), present)
    raise AssertionError(f"no oracle for {score}")


def _by_budgets(score, values, present):
    """SEATS' rule for its windows, one step of it at a time: original position -> its value, 1 more where it is chosen."""
    members = [[[p for p in present if score.group[p] == 2 * w + k] for k in (0, 1)] for w in range(score.n_windows)]
    sizes = [[len(each) for each in pair] for pair in members]
    means = [[sum(float(values[p]) for p in each) / max(len(each), 1) for each in pair] for pair in members]
    total = [sum(math.exp(pair[k] / 0.1) for pair in means) for k in (0, 1)]
    weight = [[math.exp(pair[k] / 0.1) / total[k] for k in (0, 1)] for pair in means]
    k_video, k_audio = score.n_video, score.n_audio
    budget = [min(max(round((k_video + k_audio) * sum(w) / 2), 1), sum(n)) for w, n in zip(weight, sizes, strict=True)]
    while sum(budget) > k_video + k_audio:
        budget[budget.index(max(budget))] -= 1
    while sum(budget) < k_video + k_audio:
        room = [b for b, n in zip(budget, sizes, strict=True) if b < sum(n)]
        budget[next(i for i, b in enumerate(budget) if b == min(room) and b < sum(sizes[i]))] += 1
    result = {p: float(values[p]) for p in present}
    for b, w, n, pair in zip(budget, weight, sizes, members, strict=True):
        video = min(round(b * w[0] * k_video / (w[0] * k_video + w[1] * k_audio)), n[0])
        audio = min(b - video, n[1])
        video += min(b - video - audio, n[0] - video)
        if n[0] and not video:
            video, audio = 1, audio - (audio > 1)
        if n[1] and not audio:
            audio, video = 1, video - (video > 1)
        for each, count in zip(pair, (video, audio), strict=True):
            for p in sorted(each, key=lambda p: (-float(values[p]), p))[:count]:
                result[p] += 1
    return result
