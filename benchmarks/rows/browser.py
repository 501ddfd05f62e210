"""Click to result in a real browser: what a person notices of the way through a worker."""

import shutil
from dataclasses import asdict, dataclass

import psutil

from benchmarks.measures import Measure, Meter, Ratio, Result
from benchmarks.processes import StartError
from benchmarks.stacks import Bench

TITLE = "Click to result of an empty callback, in headless Chromium"
LABELS = {
    "http": "local async def, over HTTP",
    "local": "local async def, websocket",
    "async": "offloaded async def, websocket",
    "process": "offloaded def in a process, websocket",
}

# From the click to the moment at which the answer stands in the page. The clock is the page's own.
CLICK = """
async ({name, clicks}) => {
  const button = document.getElementById(`ask-${name}`);
  const output = document.getElementById(`clicked-${name}`);
  const samples = [];
  for (let n = 0; n < clicks; n++) {
    const wanted = String(Number(output.textContent || 0) + 1);
    const shown = new Promise((resolve, reject) => {
      const late = setTimeout(() => reject(new Error(`${name}: no answer within 10 s`)), 10000);
      const watch = new MutationObserver(() => {
        if (output.textContent === wanted) {
          watch.disconnect();
          clearTimeout(late);
          resolve(performance.now());
        }
      });
      watch.observe(output, {childList: true, characterData: true, subtree: true});
    });
    const clicked = performance.now();
    button.click();
    samples.push(await shown - clicked);
    // Let the renderer finish what it does after an answer, as between two clicks of a person.
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  return samples;
}
"""


@dataclass(frozen=True)
class Settings:
    """Clicks per round and callback."""

    rounds: int
    clicks: int
    warm_up: int = 10


FULL = Settings(rounds=4, clicks=30)
QUICK = Settings(rounds=1, clicks=10, warm_up=3)


class Chromium:
    """CPU time of the browser: of its processes among the children of this one."""

    name = "chromium"

    def cpu_s(self) -> float:
        total = 0.0
        for process in psutil.Process().children(recursive=True):
            try:
                if "chrom" in process.name():
                    times = process.cpu_times()
                    total += times.user + times.system
            except psutil.NoSuchProcess:
                continue
        return total


def run(bench: Bench) -> Result:
    """One page, its callbacks in turns."""
    # Only this row needs a browser.
    from playwright.sync_api import sync_playwright  # noqa: PLC0415

    program = shutil.which("chromium-headless-shell") or shutil.which("chromium")
    if program is None:
        raise StartError("Chromium is not installed (scripts/system-deps names the package)")
    settings = QUICK if bench.quick else FULL
    ours = bench.dash_dispatch()
    measures = {name: Measure(label, "ms") for name, label in LABELS.items()}
    meters = {name: Meter([*ours.procs, Chromium()]) for name in LABELS}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(ours.address)
        page.wait_for_selector("#ask-process")
        for name in LABELS:
            page.evaluate(CLICK, {"name": name, "clicks": settings.warm_up})
        names = list(LABELS)
        for number in range(settings.rounds):
            for name in names[number % len(names) :] + names[: number % len(names)]:
                with meters[name].running():
                    samples = page.evaluate(CLICK, {"name": name, "clicks": settings.clicks})
                measures[name].rounds.append(samples)
                meters[name].calls += settings.clicks
        browser.close()
    for name, meter in meters.items():
        meter.note(measures[name])
    ratios = [
        Ratio.of("offloaded async def / local", measures["async"], measures["local"]),
        Ratio.of("offloaded def in a process / local", measures["process"], measures["local"]),
    ]
    notes = ["The client here is Chromium; its share stands among the servers'."]
    return Result("browser", TITLE, asdict(settings), list(measures.values()), ratios, notes)
