"""A page on this machine on which maps are made as one chooses: picture, model, method, layer and class.

It needs the extra `live`: `pip install "captum-extract-aggregate[live]"`, and no network.
"""

from captum_extract_aggregate.live.server import serve

__all__ = ["serve"]
