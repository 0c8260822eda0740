"""Pods from JSON: six fields of each."""

from __future__ import annotations

from dataclasses import dataclass
from sys import intern
from typing import Any

from app.identity.inventory import Workload
from app.kube.failures import ApiServerError
from app.kube.object_page import object_of, read_version, text_of


@dataclass(frozen=True, slots=True)
class Pod:
    """What is read of a pod, and the resourceVersion at which it was so; `node` is empty before it is scheduled."""

    workload: Workload
    version: int


def read_pod(value: Any) -> Pod:
    """The six fields.

    Raises:
        ApiServerError: when it is not a pod.
    """
    metadata, spec, status = (object_of(value, name) for name in ("metadata", "spec", "status"))
    workload = Workload(
        # Interned: a cluster has few namespaces, accounts, nodes and phases, and very many pods.
        namespace=intern(text_of(metadata, "namespace")),
        name=text_of(metadata, "name"),
        uid=text_of(metadata, "uid"),
        service_account=intern(text_of(spec, "serviceAccountName") or "default"),
        node=intern(text_of(spec, "nodeName")),
        phase=intern(text_of(status, "phase") or "Unknown"),
    )
    if not workload.namespace or not workload.name:
        raise ApiServerError("a pod has no name")
    return Pod(workload, read_version(metadata))
