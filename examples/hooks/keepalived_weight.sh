#!/bin/sh
# A hook for `cxtp gateway linux` beside keepalived: the node that has sessions is to be the one with the address.
#
#     cxtp gateway linux ... --on-activated keepalived_weight.sh --on-released keepalived_weight.sh
#
# keepalived.conf:
#     vrrp_track_file sessions { file "/run/cxtp/keepalived" }
#     vrrp_instance gateway {
#         ...
#         track_file { sessions weight 1 }
#     }
#
# The file, or the one that CXTP_KEEPALIVED names, says 100 while this node has sessions and 0 while it has none.
set -eu
file=${CXTP_KEEPALIVED:-/run/cxtp/keepalived}
mn=$(sed -n 's/.*"mn_address": "\([^"]*\)".*/\1/p')
[ -n "$mn" ] || { echo "no mn_address in what came" >&2; exit 1; }
mkdir -p "$file.sessions"
case $1 in
    activated) : > "$file.sessions/$mn" ;;
    released) rm -f "$file.sessions/$mn" ;;
esac
weight=0
[ -z "$(ls "$file.sessions")" ] || weight=100
echo "$weight" > "$file.new" && mv "$file.new" "$file"
