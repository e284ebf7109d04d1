"""What the tests of the command line lay into folders, and how they look at the pictures that come of it."""

from PIL import Image

MINE = (
    "from torch import nn\n"
    "def build(classes=2):\n"
    "    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes)\n"
    "    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), *head)\n"
    "def six():\n"
    "    return build(6)\n"
)

PLAN = """
layers = ["layer3"]
data = {n = 2}
methods = [{method = "gradient", label = "=cmd()"}]
measures = [{measure = "class_sensitivity", label = "@sum"}]
"""


def check_picture(path, least_colours=100):
    with Image.open(path) as image:
        assert min(image.size) > 300
        assert len(image.convert("RGB").getcolors(2**24)) > least_colours
