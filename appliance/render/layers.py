"""The files of a site as the nodes know them: a manifest for each node, and what a change sends."""

from __future__ import annotations

from collections.abc import Collection

from appliance.node import layer
from appliance.node.layer import Manifest
from appliance.plan.model import Plan
from appliance.render.tree import FileTree, NodeFiles


def manifests(plan: Plan, tree: FileTree) -> dict[str, Manifest]:
    """What every node's files are, by their digests."""
    return {node: _manifest(plan, node, files) for node, files in tree.items()}


def _manifest(plan: Plan, node: str, files: NodeFiles) -> Manifest:
    every = ((str(path), file.content, file.mode) for path, file in files.items())
    return layer.manifest(plan.site, node, plan.digest, every)


def contents(files: NodeFiles, without: Collection[tuple[str, str]] = ()) -> dict[str, str]:
    """The texts of a node's files, but for those that are there already, as (path, SHA-256)."""
    every = ((str(path), file.content) for path, file in files.items())
    return {path: text for path, text in every if (path, layer.sha256(text)) not in without}
