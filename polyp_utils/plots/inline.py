"""Figures in a notebook: those that show frames are JPEG, charts are PNG, as in files."""

from typing import Any

from matplotlib.figure import Figure

from polyp_utils.common.figures import file_format


def frames_as_jpeg() -> None:
    """Shows figures with frames as JPEG, a sixth of PNG's size; the output names their data set.

    Its metadata hold the figure's label as ``frames_of``, which tells `publish` what may be shown.
    """
    import matplotlib_inline.backend_inline  # noqa: F401  sets its own formats on import
    from IPython.core.getipython import get_ipython
    from IPython.core.pylabtools import print_figure

    def jpeg(figure: Figure) -> tuple[str, dict[str, str]] | None:
        suffix, options = file_format(figure)
        if suffix == "png":
            return None
        encoded = print_figure(figure, suffix, base64=True, **options)
        return encoded, {"frames_of": str(figure.get_label())}

    def png(figure: Figure) -> str | None:
        return print_figure(figure, base64=True) if file_format(figure)[0] == "png" else None

    shell: Any = get_ipython()
    formatters = shell.display_formatter.formatters
    formatters["image/jpeg"].for_type(Figure, jpeg)
    formatters["image/png"].for_type(Figure, png)
