"""Draw the README's figures from the default study: python benchmarks/readme_figures.py [STUDY_FOLDER]

Run ``make study`` first. Figures go to benchmarks/figures/. The pages are photographed by Debian's chromium, through
playwright (of the ``test`` extra).
"""

import shutil
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from il2m import plots
from il2m.methods.rectify import PARTS
from il2m.methods.registry import METHODS, method_scores
from il2m.results.table import bias_table, results_table, series
from il2m.study.find import open_run
from il2m.study.planning import load_images

ROOT = Path(__file__).resolve().parents[1]
FIGURES = ROOT / "benchmarks" / "figures"


def draw_principle(run):
    """One validation image that IL2M mends: its scores before and after, in learning order."""
    state = run.states.num_states
    num_past = run.states.num_past(state)
    labels = np.asarray(run.state(state).array("val_labels"))
    before, after = (np.asarray(method_scores(run, state, method)) for method in ("FT", "IL2M"))
    mended = (before.argmax(1) != labels) & (after.argmax(1) == labels) & (before.argmax(1) >= num_past)
    own = before[np.arange(len(labels)), labels]
    chosen = np.flatnonzero(mended)[np.argsort(own[mended])[mended.sum() // 2]]  # a typical one, not the best
    image = load_images(run, ROOT / "data").val_images[run.state(state).array("val_indices")[chosen]]

    layout = [["image", "before", "after"]]
    figure, axes = plt.subplot_mosaic(layout, figsize=(11, 3.6), width_ratios=[0.55, 1, 1])
    axes["image"].imshow(image.squeeze(), cmap="gray")
    axes["image"].set_title(f"an image of “{run.class_names[labels[chosen]]}”,\na past class", loc="center")
    axes["image"].axis("off")
    classes = np.arange(before.shape[1])
    colours = np.where(classes < num_past, plots.PAST, plots.NEW)
    highest = max(before[chosen].max(), after[chosen].max())
    for name, scores, title in (
        ("before", before[chosen], "fine-tuning"),
        ("after", after[chosen], "after IL2M's rectification"),
    ):
        ax, top = axes[name], scores.argmax()
        ax.bar(classes, scores, width=0.85, color=colours)
        verdict = "right" if top == labels[chosen] else "wrong"
        ax.annotate(
            f"“{run.class_names[top]}”, {verdict}", (top, scores[top]), xytext=(0, 4), textcoords="offset points",
            ha="right" if top > num_past else "center", fontsize="small",
        )  # fmt: skip
        ax.set_title(title)
        ax.set_ylim(min(before[chosen].min(), after[chosen].min()) * 1.05, highest * 1.15)
        ax.set_xlabel("class, in learning order")
    axes["before"].set_ylabel("raw score")
    handles = [plt.Rectangle((0, 0), 1, 1, color=colour) for colour in (plots.PAST, plots.NEW)]
    axes["after"].legend(handles, ["past classes", "new classes"], loc="lower left", fontsize="small")
    figure.savefig(FIGURES / "principle.png", dpi=110, facecolor="white")


def draw_study(run):
    """The default study in three panels: the bias, its cure, and where it shows."""
    bias, table = bias_table(run), results_table(run)
    figure, axes = plt.subplots(1, 3, figsize=(15, 4))
    plots.plot_past_and_new(bias["past_score"], bias["new_score"], ylabel="mean true-class raw score", ax=axes[0])
    axes[0].set_title("Past classes score lower than new ones")
    shares = bias.loc[2:]
    plots.plot_prediction_share(shares["predicted_new"], shares["true_new"], ax=axes[1])
    axes[1].set_title("so too many images are taken for new classes;")
    plots.plot_by_state({method: series(table, method) for method in PARTS}, colours=METHODS.colours, ax=axes[2])
    axes[2].set_title("rectified past scores bring part of it back")
    figure.savefig(FIGURES / "study.png", dpi=90, facecolor="white")


def photograph_pages(folder):
    """The report, and the explorer's page: true-class scores in the dark theme, what if in the light one."""
    from playwright.sync_api import sync_playwright

    arguments = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=arguments)
        for name, page_name, scheme, view, height in (
            ("report", "index.html", "light", "", 760),
            ("explorer", "explorer.html", "dark", "true-class scores", 830),
            ("explorer_what_if", "explorer.html", "light", "what if", 1010),
        ):
            size = {"width": 1000, "height": height}
            page = browser.new_page(viewport=size, color_scheme=scheme, device_scale_factor=1.2)
            page.goto((folder / page_name).resolve().as_uri())
            if view:
                page.get_by_role("radio", name=view, exact=True).check()
            page.wait_for_timeout(1500)
            page.screenshot(path=FIGURES / f"{name}.png")
        browser.close()


if __name__ == "__main__":
    FIGURES.mkdir(exist_ok=True)
    plots.use_style()
    study_folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "runs" / "quickstart"
    study = open_run(study_folder)
    draw_principle(study)
    draw_study(study)
    photograph_pages(study_folder)
