"""Gapminder's data, as it comes with plotly, and what the demo draws and computes from it."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import plotly.express as px
from numpy.typing import NDArray

Array = NDArray[np.float64]
Figure = dict[str, Any]
Range = tuple[float, float]


DATA = px.data.gapminder()
YEARS = [int(year) for year in DATA["year"].unique()]
BY_YEAR = {
    int(year): rows.sort_values("pop", ascending=False).reset_index(drop=True)
    for year, rows in DATA.groupby("year")
}
CONTINENTS = {
    "Africa": "#f0a33f",
    "Americas": "#4fb286",
    "Asia": "#e5625e",
    "Europe": "#4a7fd6",
    "Oceania": "#9067c6",
}
MEASURES = {"lifeExp": "Life expectancy", "gdpPercap": "GDP per head", "pop": "Population"}
EARLY, LATE = 1957, 2007


def words(measure: str, value: float) -> str:
    if measure == "lifeExp":
        return f"{value:.1f} years"
    if measure == "gdpPercap":
        return f"${value:,.0f}"
    return f"{value / 1e6:,.1f} million"


def most_alike(country: str, year: int) -> pd.DataFrame:
    """The countries nearest to this one in wealth and health."""
    world = BY_YEAR[year].set_index("country")
    place = pd.DataFrame({"wealth": np.log10(world["gdpPercap"]), "health": world["lifeExp"]})
    place = place / place.std()
    distance = ((place - place.loc[country]) ** 2).sum(axis=1).drop(country)
    return world.loc[distance.nsmallest(8).index]


# Figures. Plain dicts: go.Figure checks each property, and one of these is made on the event loop
# at every step of the slider (2 ms like this, 36 ms with go.Figure).

FONT = "Inter, system-ui, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
INK, FAINT, GRID = "#343a40", "#868e96", "#eef0f3"
INCOMES = [500, 1000, 2000, 5000, 10000, 20000, 50000]


AXIS_NAMES = [
    {
        "text": text,
        "xref": "paper",
        "yref": "paper",
        "x": x,
        "y": y,
        "xanchor": xanchor,
        "yanchor": yanchor,
    }
    for text, x, y, xanchor, yanchor in [
        ("life expectancy, years", 0.005, 1, "left", "top"),
        ("GDP per head", 0.995, 0, "right", "bottom"),
    ]
]


def styled(traces: list[Figure], notes: list[Figure], x_range: Range, y_range: Range) -> Figure:
    axis = {"gridcolor": GRID, "zeroline": False, "ticks": ""}
    return {
        "data": traces,
        "layout": {
            "annotations": [{"showarrow": False, **note} for note in [*notes, *AXIS_NAMES]],
            "font": {"family": FONT, "size": 11, "color": FAINT},
            "margin": {"l": 26, "r": 6, "t": 8, "b": 24},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "showlegend": False,
            "uirevision": "keep",
            "hoverlabel": {"font": {"family": FONT, "size": 12}},
            "xaxis": {
                **axis,
                "type": "log",
                "range": [math.log10(income) for income in x_range],
                "tickvals": INCOMES,
                "ticktext": [f"${income / 1000:g}k" for income in INCOMES],
            },
            "yaxis": {**axis, "range": y_range},
        },
    }


def bubbles(year: int, continents: list[str], country: str) -> Figure:
    rows = BY_YEAR[year]
    size = np.sqrt(rows["pop"] / 1.25e5).to_numpy()

    def trace(these: pd.Series, marker: Figure, grow: int = 0, **extra: Any) -> Figure:
        part = rows[these]
        return {
            "mode": "markers",
            "x": part["gdpPercap"].to_numpy(),
            "y": part["lifeExp"].to_numpy(),
            "customdata": part["country"].tolist(),
            "text": [words("pop", value) for value in part["pop"]],
            "hovertemplate": "<b>%{customdata}</b><br>%{y:.1f} years · $%{x:,.0f}"
            "<br>%{text}<extra></extra>",
            "marker": {"size": size[these.to_numpy()] + grow, "sizemin": 2.5 + grow, **marker},
            **extra,
        }

    traces = [
        trace(
            rows["continent"] == name,
            {"color": CONTINENTS[name], "opacity": 0.78, "line": {"width": 1, "color": "white"}},
        )
        for name in continents
    ]
    ring = trace(
        (rows["country"] == country) & rows["continent"].isin(continents),
        {"color": "rgba(0,0,0,0)", "line": {"width": 2, "color": INK}},
        grow=3,
        mode="markers+text",
        text=[country],
        textposition="top center",
        textfont={"color": INK, "size": 12, "weight": 600},
        hoverinfo="skip",
        hovertemplate=None,
    )
    behind = {
        "text": str(year),
        "font": {"size": 76, "color": "#eceff3", "weight": 700},
        "xref": "paper",
        "x": 0.985,
        "xanchor": "right",
        "yref": "paper",
        "y": 0.06,
        "yanchor": "bottom",
    }
    return styled([*traces, ring], [behind], (225, 62000), (28, 87))


# The heavy part: how long did people live at the same income, fifty years apart?
#
# Samuel Preston's question of 1975. The curve of each year is a local linear regression of life
# expectancy on log income. How sure it is, the bootstrap says: draw the 142 countries again with
# replacement, choose the bandwidth anew by leaving out one country at a time, fit again.

INCOME = np.log10(np.geomspace(450, 40000, 60))
BANDWIDTHS = (0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.8)
SAMPLES = {
    year: (np.log10(rows["gdpPercap"].to_numpy()), rows["lifeExp"].to_numpy())
    for year, rows in DATA[DATA["year"].isin([EARLY, LATE])].groupby("year")
}


def fit(
    at: Array, x: Array, y: Array, copies: Array, bandwidth: float, skip_own: bool = False
) -> Array:
    """Local linear regression with a Gaussian kernel, each country counted ``copies`` times."""
    distance = x[None, :] - at[:, None]
    weight = np.exp(-0.5 * (distance / bandwidth) ** 2) * copies
    if skip_own:
        np.fill_diagonal(weight, 0)
    tilted = weight * distance
    s0, s1, s2 = weight.sum(1), tilted.sum(1), (tilted * distance).sum(1)
    curve: Array = (s2 * (weight @ y) - s1 * (tilted @ y)) / (s0 * s2 - s1 * s1)
    return curve


def preston_curve(year: int, copies: Array) -> Array:
    x, y = SAMPLES[year]

    def left_out_error(bandwidth: float) -> float:
        return float(copies @ (y - fit(x, x, y, copies, bandwidth, skip_own=True)) ** 2)

    return fit(INCOME, x, y, copies, min(BANDWIDTHS, key=left_out_error))


def bootstrap(draws: int) -> Iterator[tuple[Array, Array]]:
    """One pair of curves, early and late, per draw."""
    random = np.random.default_rng()
    countries = len(SAMPLES[EARLY][0])
    for _ in range(draws):
        copies = random.multinomial(countries, np.full(countries, 1 / countries)).astype(float)
        yield preston_curve(EARLY, copies), preston_curve(LATE, copies)


SHADES = {EARLY: ("#98a1ab", "rgba(134,142,150,.20)"), LATE: ("#7048e8", "rgba(112,72,232,.17)")}
TYPICAL = int(np.abs(INCOME - np.log10(3000)).argmin())  # where the two curves are compared
CURVES = {year: preston_curve(year, np.ones_like(x)) for year, (x, _) in SAMPLES.items()}


def preston_figure(drawn: list[tuple[Array, Array]]) -> Figure:
    """Countries and curves of both years; with the 95 % bands once there are draws."""
    traces, notes = [], []
    for index, (year, (color, tint)) in enumerate(SHADES.items()):
        x, y = SAMPLES[year]
        # Where there are hardly any countries there is no curve either.
        inside = (np.quantile(x, 0.04) <= INCOME) & (np.quantile(x, 0.96) >= INCOME)
        income, curve = 10 ** INCOME[inside], CURVES[year][inside]
        if drawn:
            low, high = np.quantile([pair[index] for pair in drawn], [0.025, 0.975], axis=0)
            edge = {"x": income, "mode": "lines", "line": {"width": 0}, "hoverinfo": "skip"}
            traces.append({**edge, "y": low[inside]})
            traces.append({**edge, "y": high[inside], "fill": "tonexty", "fillcolor": tint})
        dots = {"size": 4, "color": color, "opacity": 0.45}
        traces.append({"x": 10**x, "y": y, "mode": "markers", "marker": dots, "hoverinfo": "skip"})
        shown = f"{year}: %{{y:.1f}} years at $%{{x:,.0f}}<extra></extra>"
        line = {"color": color, "width": 2.5}
        traces.append(
            {"x": income, "y": curve, "mode": "lines", "line": line, "hovertemplate": shown}
        )
        above = year == LATE
        notes.append(
            {
                "text": f"<b>{year}</b>",
                "font": {"size": 13, "color": color},
                "x": math.log10(income[-1]),
                "xanchor": "right" if above else "center",
                "y": curve[-1],
                "yanchor": "bottom" if above else "top",
                "yshift": 14 if above else -34,
            }
        )
    low, high = CURVES[EARLY][TYPICAL], CURVES[LATE][TYPICAL]
    income = 10 ** INCOME[TYPICAL]
    bar = {"color": INK, "width": 1.5}
    traces.append({"x": [income] * 2, "y": [low, high], "mode": "lines", "line": bar})
    notes.append(
        {
            "text": f"<b>{high - low:+.1f} years</b>",
            "font": {"size": 12, "color": INK},
            "bgcolor": "rgba(255,255,255,.8)",
            "x": INCOME[TYPICAL],
            "xanchor": "left",
            "y": low,
            "yanchor": "top",
            "yshift": -6,
        }
    )
    return styled(traces, notes, (330, 56000), (29, 87))


def finding(drawn: list[tuple[Array, Array]]) -> str:
    gap = CURVES[LATE][TYPICAL] - CURVES[EARLY][TYPICAL]
    gaps = [late[TYPICAL] - early[TYPICAL] for early, late in drawn]
    low, high = np.quantile(gaps, [0.025, 0.975])
    return f"{gap:+.1f} years at $3,000 a head (95 %: {low:.1f} to {high:.1f})"
