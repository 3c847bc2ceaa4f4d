-- Every field that the dissector shows, and every expert info.  An address has two fields: X for IPv4, X6 for IPv6.
return function(names)
    local fields, experts = {}, {}

    local function add(kind, abbreviation, label, ...)
        fields[abbreviation] = ProtoField[kind]("cxtp." .. abbreviation, label, ...)
    end
    local function number(bits, abbreviation, label, values, hexadecimal)
        add("uint" .. bits, abbreviation, label, hexadecimal and base.HEX or base.DEC, values)
    end
    local function flag(bits, abbreviation, label, mask)
        add("bool", abbreviation, label, bits, nil, mask)
    end
    local function address(abbreviation, label)
        add("ipv4", abbreviation, label)
        add("ipv6", abbreviation .. "6", label)
    end
    local function all(kind, rows)
        for _, row in ipairs(rows) do add(kind, row[1], row[2]) end
    end

    -- messages (RFC 4067, 2.5)
    add("uint8", "version", "Vers.", base.DEC, nil, 0xE0)
    add("uint8", "type", "Type", base.DEC, names.message, 0x1F)
    flag(8, "ipv4", "V: the addresses are IPv4", 0x80)
    flag(8, "acknowledge", "A: an answer is asked for", 0x40)
    flag(8, "success", "S: all was received", 0x40)
    add("uint8", "reserved", "Reserved", base.HEX, nil, 0x3F)
    add("uint8", "reserved_bits", "Reserved", base.HEX, nil, 0x7F)
    number(16, "length", "Length")
    address("mn_address", "MN's Previous IP Address")
    address("access_router_address", "Previous (New) AR's IP Address")
    number(32, "sequence_number", "Sequence Number")
    add("bytes", "token", "Authorization Token")
    number(8, "token.status", "Authorization Token Status", names.token_status)
    number(32, "elapsed_time", "Elapsed Time (in milliseconds)")
    number(16, "algorithm", "Algorithm", names.token_algorithm)
    number(16, "key_length", "Key Length")
    add("bytes", "key", "Key")
    add("bytes", "excess", "Octets that belong to nothing")

    -- requested Context Data Blocks, Context Data Blocks, status records
    all("none", { { "requested", "Requested Context Data Block" }, { "cdb", "Context Data Block" },
        { "record", "Status of a context" } })
    number(16, "requested.fpt", "Feature Profile Type (FPT)", names.feature_profile_type, true)
    number(8, "requested.length", "Length (8-octet words)")
    number(8, "requested.flags", "P and Reserved", nil, true)
    add("bytes", "requested.padding", "Padding")
    number(16, "cdb.fpt", "Feature Profile Type (FPT)", names.feature_profile_type, true)
    number(8, "cdb.length", "Length (8-octet words)")
    flag(8, "cdb.presence", "P: there is a Presence Vector", 0x80)
    add("uint8", "cdb.reserved", "Reserved", base.HEX, nil, 0x7F)
    number(32, "cdb.presence_vector", "Presence Vector", nil, true)
    add("bytes", "cdb.data", "Data")
    number(16, "record.fpt", "Feature Profile Type (FPT)", names.feature_profile_type, true)
    number(8, "record.status", "Status code", names.status, true)
    number(8, "record.reserved", "Reserved", nil, true)
    number(32, "receipt", "Receipt: answers the transfer", nil, true)
    for bit = 0, 31 do
        local name
        if bit <= 15 then name = "m" .. (bit + 1)
        elseif bit <= 28 then name = "o" .. (bit - 15)
        else name = ({ "o14_and_above", "v0", "v1" })[bit - 28] end
        flag(32, "presence." .. name, string.upper(name):gsub("_AND_ABOVE", " and above"), 2 ^ (31 - bit))
    end

    -- what is found out
    all("framenum", { { "response_in", "Response in" }, { "response_to", "Response to" },
        { "retransmission_of", "Retransmission of" } })
    add("relative_time", "response_time", "Time since the request")

    -- contexts (docs/context-formats.md)
    all("none", { { "context", "Context" }, { "parameter", "Parameter" } })
    number(8, "context.status", "Status that a receiver gives", names.status, true)
    number(8, "context.format_version", "Format Version")
    number(16, "context.parameter_count", "Parameter Count")
    number(32, "context.total_length", "Total Length")
    add("bytes", "context.reserved", "Reserved")
    add("bytes", "context.padding", "Padding")
    number(16, "context.octets", "Length (octets)")
    number(8, "context.count", "Count")
    add("uint8", "context.reserved_bits_7", "Reserved", base.HEX, nil, 0x7F)
    add("uint8", "context.reserved_bits_6", "Reserved", base.HEX, nil, 0x3F)
    add("uint32", "context.reserved_bits_30", "Reserved", base.HEX, nil, 0x3FFFFFFF)
    add("uint32", "context.reserved_bits_26", "Reserved", base.HEX, nil, 0x03FFFFFF)
    add("uint16", "parameter.level", "Level", base.DEC, names.level, 0xC000)
    add("uint16", "parameter.number", "Number", base.DEC, nil, 0x3FFF)
    number(16, "parameter.length", "Length (octets)")
    add("bytes", "parameter.value", "Value")

    -- elements
    all("none", { { "local_host", "Local host address" }, { "remote_host", "Remote host address" } })
    number(8, "host.family", "Family", names.family)
    number(16, "host.port", "Port")
    address("host.address", "Address")
    number(64, "ike.spi_i", "SPI of the initiator", nil, true)
    number(64, "ike.spi_r", "SPI of the responder", nil, true)
    all("bytes", { { "ike.ni", "Ni" }, { "ike.nr", "Nr" } })
    number(32, "window.size", "Window Size")
    add("bytes", "window.bitmap", "Window Bitmap")

    -- IKE_SA
    add("uint8", "ike.major", "Major Version", base.DEC, nil, 0xF0)
    add("uint8", "ike.minor", "Minor Version", base.DEC, nil, 0x0F)
    flag(8, "ike.initiator", "I: local is the original initiator", 0x80)
    number(32, "ike.next_request_to_send", "Next Request to Send")
    number(32, "ike.next_request_expected", "Next Request Expected")
    number(8, "ike.case", "Case", names.case)
    flag(8, "ike.has_rekeyed_from", "R: it replaced another IKE_SA", 0x80)
    all("bytes", {
        { "ike.private_key", "Private Key" }, { "ike.peer_key_exchange", "Peer's KE Content" },
        { "ike.shared_secret", "g^ir" }, { "ike.skeyseed", "SKEYSEED" }, { "ike.earlier", "Earlier SKEYSEED" },
        { "ike.additional_secrets", "SK(n)" }, { "ike.sk_d", "SK_d" }, { "ike.sk_ai", "SK_ai" },
        { "ike.sk_ar", "SK_ar" }, { "ike.sk_ei", "SK_ei" }, { "ike.sk_er", "SK_er" }, { "ike.sk_pi", "SK_pi" },
        { "ike.sk_pr", "SK_pr" }, { "ike.vendor_ids", "Vendor ID" }, { "identification.data", "Identification Data" },
        { "credentials.key", "Pre-shared Key" }, { "credentials.chain", "Certificate" },
    })
    all("none", { { "ike.rekeyed_from", "Rekeyed From" }, { "ike.keys", "Key set" },
        { "ike.earlier_keys", "Earlier key set" }, { "ike.local_identity", "Local Identification" },
        { "ike.remote_identity", "Remote Identification" } })
    number(16, "ike.prf", "PRF", names.prf)
    number(16, "ike.encr", "ENCR", names.encryption)
    number(16, "ike.encr_key_length", "ENCR Key Length (bits)")
    number(16, "ike.integ", "INTEG", names.integrity)
    number(16, "ike.integ_key_length", "INTEG Key Length (bits)")
    number(16, "ike.ke", "KE", names.key_exchange)
    number(16, "ike.additional_ke", "Additional KE", names.key_exchange)
    number(32, "ike.extensions", "Extensions", nil, true)
    for index, name in ipairs(names.extensions) do
        flag(32, "ike.extension." .. name, string.upper(name), 2 ^ (index - 1))
    end
    number(8, "identification.type", "ID Type", names.identification)
    number(8, "credentials.kind", "Kind", names.credentials)
    add("string", "credentials.name", "Name")
    flag(32, "ike.has_soft_remaining", "S: Soft Remaining is told", 0x80000000)
    flag(32, "ike.has_hard_remaining", "H: Hard Remaining is told", 0x40000000)
    number(32, "ike.soft_remaining", "Soft Remaining (seconds)")
    number(32, "ike.hard_remaining", "Hard Remaining (seconds)")

    -- IPsec_SA
    number(32, "ipsec.inbound_spi", "Inbound SPI", nil, true)
    number(32, "ipsec.outbound_spi", "Outbound SPI", nil, true)
    flag(8, "ipsec.compressed", "C: IPComp is on", 0x80)
    number(8, "ipsec.ipcomp_algorithm", "Algorithm", names.ipcomp)
    number(16, "ipsec.inbound_cpi", "Inbound CPI", nil, true)
    number(16, "ipsec.outbound_cpi", "Outbound CPI", nil, true)
    flag(8, "ipsec.overflow_allowed", "O: the counter may overflow", 0x80)
    number(8, "ipsec.knowledge", "Knowledge", names.knowledge)
    number(64, "ipsec.outbound", "Outbound")
    number(64, "ipsec.inbound", "Inbound")
    number(8, "ipsec.mode", "Mode", names.mode)
    all("none", { { "ipsec.lifetime.seconds", "Limits of seconds" }, { "ipsec.lifetime.octets", "Limits of octets" },
        { "ipsec.lifetime.packets", "Limits of packets" } })
    flag(32, "ipsec.lifetime.has_soft", "S: Soft is a limit", 0x80000000)
    flag(32, "ipsec.lifetime.has_hard", "H: Hard is a limit", 0x40000000)
    number(64, "ipsec.lifetime.soft", "Soft")
    number(64, "ipsec.lifetime.hard", "Hard")
    number(64, "ipsec.lifetime.used", "Used")
    number(32, "ipsec.path_mtu", "Path MTU (octets)")
    number(8, "ipsec.upper_layer_protocol", "Protocol")
    all("none", { { "ipsec.local_selectors", "Local traffic selector" },
        { "ipsec.remote_selectors", "Remote traffic selector" } })
    number(8, "selector.type", "TS Type", names.selector)
    number(8, "selector.protocol", "IP Protocol")
    number(16, "selector.length", "Selector Length")
    number(16, "selector.start_port", "Start Port")
    number(16, "selector.end_port", "End Port")
    address("selector.start_address", "Start Address")
    address("selector.end_address", "End Address")
    number(8, "ipsec.protocol", "Protocol", names.protocol)
    flag(8, "ipsec.extended_sequence_numbers", "E: extended sequence numbers", 0x80)
    flag(8, "ipsec.has_encr", "C: there is an encryption algorithm", 0x40)
    number(16, "ipsec.encr", "ENCR", names.encryption)
    number(16, "ipsec.encr_key_length", "ENCR Key Length (bits)")
    number(16, "ipsec.integ", "INTEG", names.integrity)
    number(16, "ipsec.integ_key_length", "INTEG Key Length (bits)")
    number(16, "ipsec.ke", "KE", names.key_exchange)
    number(8, "ipsec.kind", "Kind", names.keymat)
    all("bytes", {
        { "ipsec.inbound_encryption", "Inbound Encryption Key" },
        { "ipsec.inbound_integrity", "Inbound Integrity Key" },
        { "ipsec.outbound_encryption", "Outbound Encryption Key" },
        { "ipsec.outbound_integrity", "Outbound Integrity Key" }, { "ipsec.shared_secret", "g^ir (new)" },
        { "ipsec.additional_secrets", "SK(n)" },
    })
    flag(8, "ipsec.initiator", "I: local started the exchange", 0x80)
    for bit, name in ipairs({ "instance_id", "flow_id", "reqid", "mark", "mark_mask", "if_id" }) do
        flag(32, "unit.has_" .. name, name .. " is told", 2 ^ (32 - bit))
        number(32, "unit." .. name, name, nil, true)
    end

    -- vendor parameters
    number(32, "vendor.enterprise", "Enterprise", names.enterprise)
    number(16, "vendor.number", "Vendor Number")
    add("bytes", "vendor.value", "Vendor Value")
    add("string", "vendor.text", "Text")
    number(32, "vendor.bits", "Value", nil, true)
    address("vendor.address", "Address")

    -- other contexts
    add("bytes", "listener.subnet_prefix", "Subnet Prefix")
    add("ipv6", "listener.group", "Subscribed IPv6 Multicast Address")
    number(8, "manifest.format", "Format")
    number(16, "manifest.part", "Part")
    number(16, "manifest.parts", "Parts")
    number(32, "manifest.transfer_id", "Transfer Identifier", nil, true)
    number(32, "manifest.contexts", "Contexts")
    number(64, "manifest.generation", "Generation")
    add("bytes", "manifest.digest", "Digest")
    number(8, "replica.format", "Format")
    number(8, "replica.kind", "Kind", names.replica)

    local function info(abbreviation, label, group, severity)
        experts[abbreviation] = ProtoExpert.new("cxtp.expert." .. abbreviation, label, group, severity)
    end
    info("malformed", "Not a CXTP message", expert.group.MALFORMED, expert.severity.ERROR)
    info("lower", "Malformed ICMP packet", expert.group.MALFORMED, expert.severity.ERROR)
    info("checksum", "ICMP checksum is wrong", expert.group.CHECKSUM, expert.severity.ERROR)
    info("context_malformed", "Not a context of its type", expert.group.MALFORMED, expert.severity.ERROR)
    info("context_missing", "A mandatory parameter is missing", expert.group.MALFORMED, expert.severity.ERROR)
    info("context_unsupported", "A parameter or value that is not supported", expert.group.UNDECODED,
        expert.severity.ERROR)
    info("continuation", "A continuation block that continues nothing", expert.group.MALFORMED, expert.severity.ERROR)
    info("unusual", "Legal, and yet worth a look", expert.group.PROTOCOL, expert.severity.NOTE)
    info("reserved", "Reserved bits are set", expert.group.PROTOCOL, expert.severity.NOTE)
    info("vendor", "The value of a known vendor parameter can't be read", expert.group.UNDECODED, expert.severity.NOTE)
    info("token", "The authorization token does not match", expert.group.SECURITY, expert.severity.WARN)
    info("hop_limit", "Sent with another hop limit than 255 (RFC 4067, 3.2)", expert.group.PROTOCOL,
        expert.severity.WARN)
    info("truncated", "The capture holds a part of the message alone", expert.group.UNDECODED, expert.severity.WARN)
    info("retransmission", "Sent before", expert.group.SEQUENCE, expert.severity.NOTE)
    info("failure", "A context was refused", expert.group.RESPONSE_CODE, expert.severity.NOTE)
    return fields, experts
end
