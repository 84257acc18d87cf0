"""The Triton code of `tersor::attention`."""

from __future__ import annotations

from tersor.kernels.language import jit, tl


@jit
def _attend(  # type: ignore[no-untyped-def]
    query, k_at, v_at, bias_at, order, total, top, norm, low, high, limit, position, scale, window, kn, vn, bn,
    D: tl.constexpr, DV: tl.constexpr, CAUSAL: tl.constexpr, WINDOWED: tl.constexpr, LISTED: tl.constexpr,
    MASKED: tl.constexpr, BIAS: tl.constexpr, EXACT: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_DV: tl.constexpr,
):  # fmt: skip
    """Takes the keys from low to high into account, with the masks where MASKED."""
    dims, wide, columns = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_DV), tl.arange(0, BLOCK_N)
    for at in range(low, high, BLOCK_N):
        start = at
        if LISTED:
            start = tl.load(order + at // BLOCK_N) * BLOCK_N
        keys = start + columns
        from_key = keys.to(tl.int64)
        if MASKED or BLOCK_D != D:
            key = tl.load(
                k_at + from_key[None, :] * kn + dims[:, None],
                mask=(keys[None, :] < limit) & (dims[:, None] < D), other=0.0,
            )  # fmt: skip
        else:
            key = tl.load(k_at + from_key[None, :] * kn + dims[:, None])
        if EXACT:
            key = key.to(tl.float32)
        scores = tl.dot(query, key, input_precision="ieee") * scale
        if BIAS:
            scores += 1.4426950408889634 * tl.load(
                bias_at + from_key[None, :] * bn, mask=keys[None, :] < limit, other=0.0
            ).to(tl.float32)
        if MASKED:
            seen = keys[None, :] < limit
            if CAUSAL:
                seen = seen & (keys[None, :] <= position[:, None])
            if WINDOWED:
                seen = seen & (keys[None, :] > position[:, None] - window)
                if not CAUSAL:
                    seen = seen & (keys[None, :] < position[:, None] + window)
            scores = tl.where(seen, scores, float("-inf"))
        above = tl.maximum(top, tl.max(scores, 1))
        base = above
        if MASKED or BIAS:
            base = tl.where(above == float("-inf"), 0.0, above)  # nothing is seen so far
        weights = tl.exp2(scores - base[:, None])
        decay = tl.exp2(top - base)
        norm = norm * decay + tl.sum(weights, 1)
        if MASKED or BLOCK_DV != DV:
            value = tl.load(
                v_at + from_key[:, None] * vn + wide[None, :],
                mask=(keys[:, None] < limit) & (wide[None, :] < DV), other=0.0,
            )  # fmt: skip
        else:
            value = tl.load(v_at + from_key[:, None] * vn + wide[None, :])
        if EXACT:
            value = value.to(tl.float32)
        total = tl.dot(weights.to(value.dtype), value, total * decay[:, None], input_precision="ieee")
        top = above
    return total, top, norm


@jit
def kernel(  # type: ignore[no-untyped-def]
    q, k, v, bias, lengths, order, counts, made, scale, queries, keys, heads, group, offset, window, listed_batch,
    listed_head, listed_row, qb, qh, qm, kb, kh, kn, vb, vh, vn, bb, bh, bm, bn, ob, oh, om,
    D: tl.constexpr, DV: tl.constexpr, CAUSAL: tl.constexpr, WINDOWED: tl.constexpr, LISTED: tl.constexpr,
    BIAS: tl.constexpr, RAGGED: tl.constexpr, EXACT: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """One block of queries of one head.

    ``order`` and ``counts`` list the blocks of keys of each block of queries; ``listed_*`` are strides of counts, and
    those of order are ``cdiv(keys, BLOCK_N)`` times as large. EXACT multiplies in float32.
    """
    count = tl.cdiv(queries, BLOCK_M)
    block, batch, head = tl.program_id(0) % count, tl.program_id(0) // count // heads, tl.program_id(0) // count % heads
    if CAUSAL:
        block = count - 1 - block  # the longest first
    batch64, head64, group64 = batch.to(tl.int64), head.to(tl.int64), (head // group).to(tl.int64)
    rows, dims, wide = block * BLOCK_M + tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_DV)
    row64 = tl.minimum(rows, queries - 1).to(tl.int64)
    query_at = q + batch64 * qb + head64 * qh + row64[:, None] * qm + dims[None, :]
    query = tl.load(query_at, mask=dims[None, :] < D, other=0.0)
    if EXACT:
        query = query.to(tl.float32)
    k_at, v_at = k + batch64 * kb + group64 * kh, v + batch64 * vb + group64 * vh
    bias_at = bias
    if BIAS:
        bias_at = bias + batch64 * bb + head64 * bh + row64[:, None] * bm
    limit = tl.minimum(keys, tl.load(lengths + batch).to(tl.int32)) if RAGGED else keys
    first, last, position = block * BLOCK_M + offset, (block + 1) * BLOCK_M - 1 + offset, rows + offset
    low, high, whole = 0, limit, limit
    if CAUSAL:
        high, whole = tl.minimum(limit, last + 1), tl.minimum(limit, first + 1)
    elif WINDOWED:
        high, whole = tl.minimum(limit, last + window), tl.minimum(limit, first + window)
    list_at = order
    if LISTED:
        listed = batch64 * listed_batch + head * listed_head + block * listed_row
        list_at = order + listed * tl.cdiv(keys, BLOCK_N)
        high = tl.load(counts + listed).to(tl.int32) * BLOCK_N
    total, norm = tl.zeros([BLOCK_M, BLOCK_DV], tl.float32), tl.zeros([BLOCK_M], tl.float32)
    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    factor = scale * 1.4426950408889634  # powers of two are what the hardware computes
    if not LISTED:
        middle = 0
        if WINDOWED:
            low = tl.maximum(0, first - window + 1) // BLOCK_N * BLOCK_N
            middle = tl.cdiv(tl.maximum(0, last - window + 1), BLOCK_N) * BLOCK_N
            middle = tl.minimum(middle, tl.cdiv(tl.maximum(high, 0), BLOCK_N) * BLOCK_N)
            total, top, norm = _attend(
                query, k_at, v_at, bias_at, list_at, total, top, norm, low, middle, limit, position, factor, window,
                kn, vn, bn, D, DV, CAUSAL, WINDOWED, LISTED, True, BIAS, EXACT, BLOCK_N, BLOCK_D, BLOCK_DV,
            )  # fmt: skip
        whole = tl.maximum(tl.maximum(whole, 0) // BLOCK_N * BLOCK_N, middle)
        total, top, norm = _attend(
            query, k_at, v_at, bias_at, list_at, total, top, norm, middle, whole, limit, position, factor, window,
            kn, vn, bn, D, DV, CAUSAL, WINDOWED, LISTED, False, BIAS, EXACT, BLOCK_N, BLOCK_D, BLOCK_DV,
        )  # fmt: skip
        low = whole
    total, top, norm = _attend(
        query, k_at, v_at, bias_at, list_at, total, top, norm, low, high, limit, position, factor, window,
        kn, vn, bn, D, DV, CAUSAL, WINDOWED, LISTED, True, BIAS, EXACT, BLOCK_N, BLOCK_D, BLOCK_DV,
    )  # fmt: skip
    total = total / tl.where(norm == 0.0, 1.0, norm)[:, None]
    made_at = made + batch64 * ob + head64 * oh + row64[:, None] * om + wide[None, :]
    tl.store(made_at, total.to(made.dtype.element_ty), mask=(rows[:, None] < queries) & (wide[None, :] < DV))
