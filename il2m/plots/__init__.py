"""Plots: values in, Axes out. They compute nothing and save nothing; pass ``ax`` to draw into a figure of your own."""

from il2m.plots.seeds import plot_differences, plot_means, plot_over_seeds
from il2m.plots.states import (
    plot_accuracy_matrix,
    plot_by_state,
    plot_class_means,
    plot_error_breakdown,
    plot_history,
    plot_images,
    plot_past_and_new,
    plot_prediction_share,
    plot_state_confusion,
)
from il2m.plots.style import ERROR_COLOURS, INK, NEW, PAST, TRUTH, page_style, set_finding, themed, use_style
