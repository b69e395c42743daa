"""Library of lifecycle: what a request for a network takes over from elsewhere.

That is a configuration-only network (--config-from), else the administrator's defaults for the
driver (--default-network-opt). Used by NetworkService (networks.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from common.errors import NotFound, PermissionDenied
from common.options import EngineOptions
from lifecycle import network_rules
from lifecycle.network_records import NetworkRecord, NetworkRequest


def complete(
    request: NetworkRequest, options: EngineOptions, find: Callable[[str], NetworkRecord]
) -> NetworkRequest:
    if not request.config_from:
        return _with_defaults(request, options)
    try:
        template = find(request.config_from)
    except NotFound:
        template = None
    if template is None or not template.config_only:
        raise NotFound(f'configuration network "{request.config_from}" does not exist')
    if request.ipam or request.ipam_options or request.options or request.enable_ipv6:
        raise PermissionDenied(
            "user-specified configurations are not supported if the network depends on a "
            "configuration network"
        )
    return replace(
        request,
        enable_ipv4=template.enable_ipv4,
        enable_ipv6=template.enable_ipv6,
        ipam=template.ipam,
        ipam_options=template.ipam_options,
        options=template.options,
        labels={**template.labels, **request.labels},
    )


def _with_defaults(request: NetworkRequest, options: EngineOptions) -> NetworkRequest:
    defaults = options.default_network_options.get(request.driver or "bridge", {})
    chosen = {**defaults, **request.options}
    ipv6 = network_rules.boolean(chosen, network_rules.ENABLE_IPV6, default="false")
    ipv4 = network_rules.boolean(chosen, network_rules.ENABLE_IPV4)
    return replace(
        request,
        options=chosen,
        enable_ipv4=request.enable_ipv4 and ipv4,
        enable_ipv6=request.enable_ipv6 or ipv6,
    )
