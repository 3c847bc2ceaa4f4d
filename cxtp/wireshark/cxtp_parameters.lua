-- The parameters of IKE_SA and IPsec_SA contexts (docs/context-formats.md, 3 and 4): a function reads each one's value.
return function(names, fields, Reader)
    -- --- elements ---

    local function host(name)
        return function(r)
            r:group(name, function(g)
                local family, item = g:number("host.family", 1)
                g:reserved(1)
                g:number("host.port", 2)
                if family ~= 4 and family ~= 6 then g:refuse("unknown address family", "context_unsupported", item) end
                g:address("host.address", family)
            end)
        end
    end

    local function spis(r)
        r:field("ike.spi_i", 8)
        r:field("ike.spi_r", 8)
    end

    local function nonces(r)
        r:octets("ike.ni", 16, 256)
        r:octets("ike.nr", 16, 256)
    end

    local function identification(name)
        return function(r)
            r:group(name, function(g)
                g:number("identification.type", 1)
                g:reserved(1)
                g:octets("identification.data")
            end)
        end
    end

    local function repeated(r, name, count)
        for _ = 1, count do r:octets(name) end
    end

    local function significant_bits(octets)
        for at = 1, #octets do
            local octet = octets:byte(at)
            if octet ~= 0 then
                local bits = (#octets - at) * 8
                while octet > 0 do bits, octet = bits + 1, math.floor(octet / 2) end
                return bits
            end
        end
        return 0
    end

    local function window(minimum, maximum)
        return function(r)
            local size, item = r:number("window.size", 4)
            if size < minimum or size > maximum then
                r:refuse("Size is not " .. minimum .. " to " .. maximum, nil, item)
            end
            local range, bitmap = r:octets("window.bitmap")
            if range:len() > 512 then r:refuse("more than 4096 bits", nil, bitmap) end
            if range:len() > 0 and significant_bits(range:raw()) > size then
                r:refuse("a bit beyond the window's size", nil, bitmap)
            end
        end
    end

    local function is_utf8(octets)
        local at = 1
        while at <= #octets do
            local first = octets:byte(at)
            local more, least = 0, 0
            if first >= 0xF0 then more, least = 3, 0x10000
            elseif first >= 0xE0 then more, least = 2, 0x800
            elseif first >= 0xC0 then more, least = 1, 0x80
            elseif first >= 0x80 then return false end
            if first > 0xF4 or at + more > #octets then return false end
            local code = more == 0 and first or first % 2 ^ (6 - more)
            for index = at + 1, at + more do
                local octet = octets:byte(index)
                if octet < 0x80 or octet > 0xBF then return false end
                code = code * 64 + octet - 0x80
            end
            if code < least or code > 0x10FFFF or (code >= 0xD800 and code <= 0xDFFF) then return false end
            at = at + more + 1
        end
        return true
    end

    local function is_above(one, other) -- octet by octet: Lua's own order of strings is the locale's
        for at = 1, #one do
            if one:byte(at) ~= other:byte(at) then return one:byte(at) > other:byte(at) end
        end
        return false
    end

    -- --- IKE_SA (4.2) ---

    local key_names = { "ike.sk_d", "ike.sk_ai", "ike.sk_ar", "ike.sk_ei", "ike.sk_er", "ike.sk_pi", "ike.sk_pr" }

    local function key_set(r)
        for _, name in ipairs(key_names) do r:octets(name) end
    end

    local function rekeyable(r, read)
        local rekeyed = r:bits(1, "ike.has_rekeyed_from", "context.reserved_bits_7") >= 0x80
        local count = r:count(0, 7)
        r:reserved(1)
        read()
        nonces(r)
        if rekeyed then
            r:group("ike.rekeyed_from", function(g)
                g:number("ike.prf", 2)
                g:octets("ike.sk_d")
            end)
        end
        repeated(r, "ike.additional_secrets", count)
    end

    local cases = {
        function(r)
            rekeyable(r, function()
                r:octets("ike.private_key")
                r:octets("ike.peer_key_exchange")
            end)
        end,
        function(r)
            r:reserved(1)
            local count = r:count(0, 7)
            r:reserved(1)
            r:octets("ike.skeyseed")
            nonces(r)
            repeated(r, "ike.earlier", count)
        end,
        function(r)
            r:reserved(1)
            local count = r:count(0, 7)
            r:reserved(1)
            r:group("ike.keys", key_set)
            for _ = 1, count do r:group("ike.earlier_keys", key_set) end
        end,
        function(r)
            rekeyable(r, function() r:octets("ike.shared_secret") end)
        end,
    }

    local function by_kind(name, kinds, reason)
        return function(r)
            local kind, item = r:number(name, 1)
            if not kinds[kind] then r:refuse(reason, "context_unsupported", item) end
            kinds[kind](r)
        end
    end

    local ike = { names = names.ike, title = "IKE_SA", M = {}, O = {}, V = {} }
    ike.M[1] = function(r)
        if r:bits(1, "ike.major", "ike.minor") < 0x20 or r.tvb(r.position - 1, 1):uint() >= 0x30 then
            r:refuse("only IKE version 2 can be moved", "context_unsupported")
        end
    end
    ike.M[2] = function(r) r:bits(1, "ike.initiator", "context.reserved_bits_7") end
    ike.M[3] = function(r)
        host("local_host")(r)
        host("remote_host")(r)
    end
    ike.M[4] = spis
    ike.M[5] = function(r)
        r:number("ike.next_request_to_send", 4)
        r:number("ike.next_request_expected", 4)
    end
    ike.M[7] = by_kind("ike.case", cases, "unknown case of cryptographic material")
    ike.M[8] = function(r)
        for _, name in ipairs({ "encr", "encr_key_length", "integ", "integ_key_length", "prf", "ke" }) do
            r:number("ike." .. name, 2)
        end
        local count = r:count(0, 7)
        r:reserved(1)
        for _ = 1, count do r:number("ike.additional_ke", 2) end
    end
    ike.M[9] = function(r)
        local range, item = r:field("ike.extensions", 4)
        for _, name in ipairs(names.extensions) do item:add(fields["ike.extension." .. name], range) end
    end
    ike.M[10] = function(r)
        identification("ike.local_identity")(r)
        identification("ike.remote_identity")(r)
    end
    ike.M[11] = by_kind("credentials.kind", {
        function(r)
            r:reserved(3)
            r:octets("credentials.key")
        end,
        function(r)
            local count = r:count(1, 32)
            r:reserved(2)
            repeated(r, "credentials.chain", count)
        end,
        function(r)
            r:reserved(3)
            local range, item = r:octets("credentials.name")
            if range:len() > 0 and not is_utf8(range:raw()) then r:refuse("not UTF-8", nil, item) end
        end,
    }, "unknown kind of credentials")
    ike.M[12] = window(1, 0xFFFFFFFF)
    ike.O[1] = function(r)
        r:bits(4, "ike.has_soft_remaining", "ike.has_hard_remaining", "context.reserved_bits_30")
        r:number("ike.soft_remaining", 4)
        r:number("ike.hard_remaining", 4)
    end
    ike.O[2] = function(r)
        local count = r:count(1, 255)
        r:reserved(1)
        repeated(r, "ike.vendor_ids", count)
    end

    -- --- IPsec_SA (4.3) ---

    local function limits(name)
        return function(r)
            r:group("ipsec.lifetime." .. name, function(g)
                g:bits(4, "ipsec.lifetime.has_soft", "ipsec.lifetime.has_hard", "context.reserved_bits_30")
                g:field("ipsec.lifetime.soft", 8)
                g:field("ipsec.lifetime.hard", 8)
                g:field("ipsec.lifetime.used", 8)
            end)
        end
    end

    local function selector(g)
        local kind, item = g:number("selector.type", 1)
        g:number("selector.protocol", 1)
        local length, length_item = g:number("selector.length", 2)
        local start_port = g:number("selector.start_port", 2)
        local end_port = g:number("selector.end_port", 2)
        if kind ~= 7 and kind ~= 8 then g:refuse("unknown TS Type", "context_unsupported", item) end
        local version = kind == 7 and 4 or 6
        local first = g:address("selector.start_address", version)
        local last = g:address("selector.end_address", version)
        if length ~= (kind == 7 and 16 or 40) then
            g:refuse("the selector's length does not fit its type", nil, length_item)
        end
        if start_port > end_port and not (start_port == 65535 and end_port == 0) then
            g:refuse("start port above end port")
        end
        if is_above(first:raw(), last:raw()) then g:refuse("start address above end address") end
    end

    local function selectors(r, name)
        local count = r:count(1, 255)
        r:reserved(3)
        for _ = 1, count do r:group(name, selector) end
    end

    local ipsec = { names = names.ipsec, title = "IPsec_SA", M = {}, O = {}, V = {} }
    ipsec.M[1] = ike.M[3]
    ipsec.M[2] = function(r)
        r:number("ipsec.inbound_spi", 4)
        r:number("ipsec.outbound_spi", 4)
    end
    ipsec.M[3] = function(r)
        r:bits(1, "ipsec.compressed", "context.reserved_bits_7")
        r:number("ipsec.ipcomp_algorithm", 1)
        r:number("ipsec.inbound_cpi", 2)
        r:number("ipsec.outbound_cpi", 2)
    end
    ipsec.M[4] = function(r)
        r:bits(1, "ipsec.overflow_allowed", "context.reserved_bits_7")
        local knowledge, item = r:number("ipsec.knowledge", 1)
        if knowledge > 2 then r:refuse("unknown Knowledge", "context_unsupported", item) end
        r:reserved(2)
        r:field("ipsec.outbound", 8)
        r:field("ipsec.inbound", 8)
    end
    ipsec.M[5] = window(0, 4096)
    ipsec.M[6] = function(r)
        local mode, item = r:number("ipsec.mode", 1)
        if mode < 1 or mode > 3 then r:refuse("unknown Mode", "context_unsupported", item) end
    end
    ipsec.M[7] = function(r)
        limits("seconds")(r)
        limits("octets")(r)
        limits("packets")(r)
    end
    ipsec.M[8] = function(r) r:number("ipsec.path_mtu", 4) end
    ipsec.M[9] = function(r) r:number("ipsec.upper_layer_protocol", 1) end
    ipsec.M[10] = function(r)
        selectors(r, "ipsec.local_selectors")
        selectors(r, "ipsec.remote_selectors")
    end
    ipsec.M[11] = function(r)
        local protocol = r:number("ipsec.protocol", 1)
        local bits = r:bits(1, "ipsec.extended_sequence_numbers", "ipsec.has_encr", "context.reserved_bits_6")
        local encrypted = math.floor(bits / 0x40) % 2 == 1
        for _, name in ipairs({ "encr", "encr_key_length", "integ", "integ_key_length", "ke" }) do
            r:number("ipsec." .. name, 2)
        end
        if not (protocol == 3 and encrypted or protocol == 2 and not encrypted) then
            r:refuse("neither ESP with an encryption algorithm nor AH without one")
        end
    end
    ipsec.M[12] = by_kind("ipsec.kind", {
        function(r)
            r:reserved(3)
            r:octets("ipsec.inbound_encryption")
            r:octets("ipsec.inbound_integrity")
            r:octets("ipsec.outbound_encryption")
            r:octets("ipsec.outbound_integrity")
        end,
        function(r)
            r:bits(1, "ipsec.initiator", "context.reserved_bits_7")
            local count = r:count(0, 7)
            r:reserved(1)
            spis(r)
            nonces(r)
            r:octets("ipsec.shared_secret")
            repeated(r, "ipsec.additional_secrets", count)
        end,
    }, "unknown kind of KEYMAT")
    ipsec.O[1] = spis
    ipsec.V[1] = function(r)
        r:bits(4, "unit.has_instance_id", "unit.has_flow_id", "unit.has_reqid", "unit.has_mark", "unit.has_mark_mask",
            "unit.has_if_id", "context.reserved_bits_26")
        for _, name in ipairs({ "instance_id", "flow_id", "reqid", "mark", "mark_mask", "if_id" }) do
            r:number("unit." .. name, 4)
        end
    end

    -- --- vendor parameters (4.4) ---

    local function vendor_text(r)
        local octets = r:left()
        if octets > 0 and not is_utf8(r.tvb(r.position, octets):raw()) then r:refuse("not UTF-8", "vendor") end
        r:field("vendor.text", octets)
    end
    local function vendor_addresses(r)
        local count = 0
        while r:left() > 0 do
            if count == 255 then r:refuse("more than 255 addresses", "vendor") end
            local family, item = r:number("host.family", 1)
            if family ~= 4 and family ~= 6 then r:refuse("unknown address family", "vendor", item) end
            r:address("vendor.address", family)
            count = count + 1
        end
    end
    local function vendor_bits(r) r:number("vendor.bits", 4) end
    local vendors = {
        [0] = { vendor_text, function(r)
            r:number("identification.type", 1)
            r:reserved(1)
            r:octets("identification.data")
        end, vendor_addresses, vendor_addresses, vendor_addresses, vendor_text },
        [36906] = { vendor_bits, vendor_bits, vendor_bits, vendor_bits, vendor_bits, vendor_bits },
    }

    local function vendor(r)
        local enterprise = r:number("vendor.enterprise", 4)
        local number, number_item = r:number("vendor.number", 2)
        local start = r.position
        local _, item = r:field("vendor.value", r:left())
        local read = (vendors[enterprise] or {})[number]
        if not read then return end
        number_item:append_text(" (" .. names.vendor[enterprise][number] .. ")")
        local inner = Reader.new(r.tvb, start, r.stop, item)
        Reader.guard(function()
            read(inner)
            if inner:left() > 0 then inner:refuse("octets left over") end
        end, "vendor")
    end

    return ike, ipsec, vendor
end
