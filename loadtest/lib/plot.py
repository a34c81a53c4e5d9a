"""A plot of lines over time as SVG, readable on light and dark pages, with nothing but the standard library."""
from __future__ import annotations

from html import escape

WIDTH, HEIGHT = 860, 400
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 70, 50
COLOURS = ("#2a78d6", "#1a9e76", "#d9691c", "#c0272d")
MARKS_Y = TOP - 8


def _steps(most: float) -> list[float]:
    """Round numbers from 0 to at least `most`, about five of them."""
    raw = max(most, 1e-9) / 5
    power = 10 ** (len(str(int(raw))) - 1) if raw >= 1 else 1
    step = next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= raw)
    count = int(most / step) + 1
    return [step * at for at in range(count + 1)]


def lines(title: str, x_name: str, y_name: str, series: list, marks: list) -> str:
    """`series` are (name, [(x, y)]), `marks` are (x, word) as upright lines."""
    xs = [x for _, points in series for x, _ in points]
    ys = _steps(max(y for _, points in series for _, y in points))
    x_max, y_max = max(xs), ys[-1]
    at_x = lambda x: LEFT + x / x_max * (WIDTH - LEFT - RIGHT)  # noqa: E731
    at_y = lambda y: HEIGHT - BOTTOM - y / y_max * (HEIGHT - TOP - BOTTOM)  # noqa: E731
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" font-family="sans-serif" '
        'font-size="12">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="20" font-size="14" font-weight="bold" fill="#222222">{escape(title)}</text>',
    ]
    for y in ys:
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at_y(y):.1f}" y2="{at_y(y):.1f}" stroke="#dddddd"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{at_y(y) + 4:.1f}" text-anchor="end" fill="#444444">{y:,.0f}</text>')
    for x in _steps(x_max):
        if x <= x_max:
            place = f'x="{at_x(x):.1f}" y="{HEIGHT - BOTTOM + 16}"'
            parts.append(f'<text {place} text-anchor="middle" fill="#444444">{x:g}</text>')
    for number, (x, word) in enumerate(marks):
        parts.append(f'<line x1="{at_x(x):.1f}" x2="{at_x(x):.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" stroke="#888888" '
                     'stroke-dasharray="4 3"/>')
        # Two heights, since two marks may be near one another.
        side, move = (("end", -3), ("start", 3))[number % 2]
        parts.append(f'<text x="{at_x(x) + move:.1f}" y="{MARKS_Y}" text-anchor="{side}" fill="#444444">{escape(word)}</text>')
    for (name, points), colour in zip(series, COLOURS):
        path = " ".join(f"{at_x(x):.1f},{at_y(y):.1f}" for x, y in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
    for number, ((name, _), colour) in enumerate(zip(series, COLOURS)):
        x = LEFT + number * 190
        parts.append(f'<line x1="{x}" x2="{x + 18}" y1="40" y2="40" stroke="{colour}" stroke-width="3"/>')
        parts.append(f'<text x="{x + 24}" y="44" fill="#222222">{escape(name)}</text>')
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 12}" text-anchor="middle" fill="#444444">{escape(x_name)}</text>')
    parts.append(f'<text transform="translate(16 {middle}) rotate(-90)" text-anchor="middle" fill="#444444">{escape(y_name)}</text>')
    return "\n".join(parts) + "\n</svg>\n"
