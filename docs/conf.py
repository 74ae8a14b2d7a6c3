"""The documentation's settings. `make docs` builds it; a warning is an error."""

from plumbline import __version__

project = "Plumbline"
author = "The Plumbline team"
copyright = author
version = release = __version__

extensions = ["myst_parser"]
myst_heading_anchors = 3
suppress_warnings = ["myst.header"]  # a page of the reference may open below its title

html_theme = "furo"
html_title = "Plumbline"
html_show_copyright = False
html_show_sphinx = False
html_copy_source = False
# One monospaced and one plain family that the reader's machine has: the pages ask no other server for anything.
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0b6e69", "color-brand-content": "#0b6e69"},
    "dark_css_variables": {"color-brand-primary": "#5cc4bd", "color-brand-content": "#5cc4bd"},
}
pygments_style = "friendly"
pygments_dark_style = "monokai"
