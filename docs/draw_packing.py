"""Draw docs/packing.svg: clips padded to one length, and packed into rows.

python docs/draw_packing.py
"""

from pathlib import Path

from elastic_ast_jax.packing.packer import pack

TOKENS, SCALE, ROW = 512, 1.0, 22
CLIPS = [
    448,
    120,
    80,
    296,
    512,
    176,
    64,
    208,
    336,
    96,
    152,
    72,
    248,
    40,
    112,
    104,
]  # tokens of sixteen clips
COLOURS = ['#4e79a7', '#f28e2b', '#59a14f', '#e15759', '#76b7b2', '#edc948', '#b07aa1', '#9c755f']


def rectangle(x: float, y: float, width: float, fill: str, text: str = '') -> str:
    label = (
        f'<text x="{x + width / 2}" y="{y + 13}" text-anchor="middle" fill="white">{text}</text>'
        if text
        else ''
    )
    return f'<rect x="{x}" y="{y}" width="{width - 1}" height="{ROW - 4}" fill="{fill}"/>{label}'


def main() -> None:
    rows = pack(CLIPS, TOKENS, slots=8)
    parts, gap, top = [], 48, 40
    second = TOKENS * SCALE + gap
    padded = sum(CLIPS) / (len(CLIPS) * TOKENS)
    packed = sum(CLIPS) / (len(rows) * TOKENS)
    parts.append(
        f'<text x="0" y="16">padded: {len(CLIPS)} rows of {TOKENS} tokens, {100 * padded:.0f} %'
        ' real</text>'
    )
    parts.append(
        f'<text x="{second}" y="16">packed: {len(rows)} rows of {TOKENS} tokens, {100 * packed:.0f}'
        ' % real</text>'
    )
    parts.append(
        f'<text x="{second}" y="{top + ROW * len(rows) + 20}">each block is a clip: attention and'
        ' pooling</text>'
    )
    parts.append(
        f'<text x="{second}" y="{top + ROW * len(rows) + 38}">stay within it, so its result does'
        ' not change</text>'
    )
    for i, size in enumerate(CLIPS):
        parts.append(rectangle(0, top + i * ROW, TOKENS * SCALE, '#e3e3e3'))
        parts.append(rectangle(0, top + i * ROW, size * SCALE, COLOURS[i % 8], str(i)))
    for r, row in enumerate(rows):
        x = second
        parts.append(rectangle(x, top + r * ROW, TOKENS * SCALE, '#e3e3e3'))
        for clip in row:
            parts.append(
                rectangle(x, top + r * ROW, CLIPS[clip] * SCALE, COLOURS[clip % 8], str(clip))
            )
            x += CLIPS[clip] * SCALE
    width, height = int(second + TOKENS * SCALE), top + ROW * len(CLIPS)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"'
        ' font-family="sans-serif" font-size="14">'
    )
    background = f'<rect width="{width}" height="{height}" fill="white"/>'
    Path(__file__).with_name('packing.svg').write_text(
        '\n'.join([head, background, *parts, '</svg>']) + '\n', encoding='utf-8'
    )


if __name__ == '__main__':
    main()
