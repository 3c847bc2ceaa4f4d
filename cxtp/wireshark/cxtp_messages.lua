-- The seven messages (RFC 4067, 2.5), Context Data Blocks (2.4) and what they carry.
return function(names, fields, experts, Reader, contexts, token, tracking, settings)
    local messages = {}

    local function unusual(item, text)
        item:add_proto_expert_info(experts.unusual, text)
    end

    local function address(r, name, is_ipv4)
        local range = r:address(name, is_ipv4 and 4 or 6)
        return range, tostring(is_ipv4 and range:ipv4() or range:ipv6())
    end

    -- --- lists ---

    local function requested(r)
        while r:left() > 0 do
            r:group("requested", function(g)
                local fpt = g:number("requested.fpt", 2)
                local length, item = g:number("requested.length", 1)
                if length > 1 then g:refuse("a requested block has no data", "malformed", item) end
                local flags, flags_item = g:number("requested.flags", 1)
                if flags ~= 0 then unusual(flags_item, "flags set in a requested block") end
                g.tree:append_text(": " .. settings.name_of(fpt))
                if length == 1 then
                    local padding, padding_item = g:field("requested.padding", 4)
                    if padding:uint() ~= 0 then g:refuse("padding is not zero", "malformed", padding_item) end
                end
            end)
        end
    end

    local function records(r, message)
        local receipt, failures = {}, 0
        while r:left() > 0 do
            r:group("record", function(g)
                local fpt = g:number("record.fpt", 2)
                local status, item = g:number("record.status", 1)
                local reserved, reserved_item = g:number("record.reserved", 1)
                if not names.status[status] and fpt ~= settings.numbers.manifest then
                    unusual(item, "unknown status code")
                end
                if reserved ~= 0 then unusual(reserved_item, "reserved bits set") end
                if fpt == settings.numbers.manifest then
                    receipt[#receipt + 1] = status
                    item:append_text(" (if a receipt: an octet of the Transfer Identifier)")
                elseif status ~= 0 then
                    failures = failures + 1
                    item:add_proto_expert_info(experts.failure, "refused: " .. (names.status[status] or status))
                end
                g.tree:append_text(": " .. settings.name_of(fpt) .. ", " .. (names.status[status] or status))
            end)
        end
        if message.type == 5 and #receipt == 4 then
            local id = ((receipt[1] * 256 + receipt[2]) * 256 + receipt[3]) * 256 + receipt[4]
            r.tree:add(fields.receipt, id):set_generated()
            message.transfer_id = id
        end
        message.failures = failures
    end

    local function presence(item, range)
        for bit = 0, 31 do
            local name
            if bit <= 15 then name = "m" .. (bit + 1)
            elseif bit <= 28 then name = "o" .. (bit - 15)
            else name = ({ "o14_and_above", "v0", "v1" })[bit - 28] end
            item:add(fields["presence." .. name], range)
        end
    end

    local function block(g)
        local found = {}
        found.fpt = g:number("cdb.fpt", 2)
        local length, length_item = g:number("cdb.length", 1)
        if length == 0 then g:refuse("0, yet it counts the block's first 4 octets", "malformed", length_item) end
        local flags = g:take(1, "cdb.presence")
        g.tree:add(fields["cdb.presence"], flags)
        local item = g.tree:add(fields["cdb.reserved"], flags)
        if flags:uint() % 128 ~= 0 then unusual(item, "reserved bits set") end
        found.kind = settings.kind_of(found.fpt)
        if flags:uint() >= 128 then
            local range, vector_item = g:field("cdb.presence_vector", 4)
            found.vector = range:uint()
            if found.kind == "ike_sa" or found.kind == "ipsec_sa" then presence(vector_item, range) end
        end
        local octets = length * 8 - 4 - (found.vector and 4 or 0)
        found.start = g.position
        found.size = octets
        local _, data = g:field("cdb.data", octets)
        found.tree, found.item, found.full = data, g.tree, length == 255
        g.tree:append_text(": " .. settings.name_of(found.fpt))
        return found
    end

    -- A context that goes on in continuation blocks is put together in a tab of its own.
    local function show_context(r, parts, message)
        local head = parts[1]
        local kind = head.kind
        local tvb, start, size = r.tvb, head.start, head.size
        local parent = head.tree
        if #parts > 1 then
            local whole = ByteArray.new()
            for _, part in ipairs(parts) do
                if part.size > 0 then whole:append(r.tvb(part.start, part.size):bytes()) end
            end
            size, start = whole:len(), 0
            tvb = whole:tvb("CXTP context")
            parts[#parts].tree:append_text(" (the context is whole)")
            parent = parts[#parts].tree
        end
        local told = contexts.show(kind, tvb, start, size, head.vector, parent)
        message.transfer_id = message.transfer_id or told.transfer_id
    end

    local function blocks(r, message)
        local found = {}
        while r:left() > 0 do
            found[#found + 1] = r:group("cdb", block)
        end
        local whole, full, started = {}, false, false
        for _, part in ipairs(found) do -- all of it is checked first: a receiver refuses the message
            if part.kind ~= "continuation" then
                whole[#whole + 1] = { part }
                started = true
            else
                local text
                if not full then text = started and "continues a block that is not full" or "continues nothing"
                elseif part.vector then text = "a continuation block has no Presence Vector" end
                if text then
                    part.item:add_proto_expert_info(experts.continuation, text)
                    return
                end
                table.insert(whole[#whole], part)
            end
            full = part.full
        end
        for _, parts in ipairs(whole) do show_context(r, parts, message) end
    end

    -- --- tokens ---

    local function show_token(r, message)
        local range, item = r:field("token", 4)
        message.token, message.token_item = range:raw(), item
    end

    local function check_token(r, message, signed)
        local null = message.token == "\0\0\0\0"
        local key = settings.token_keys[message.mn] or settings.token_keys[1]
            or settings.learn_keys and settings.learned_keys[message.mn]
        local status = 2
        if null and message.type == 7 then status = 3
        elseif null then status = 0
        elseif key and #key > 0 then
            status = token.compute(key, signed) == message.token and 1 or 0
        end
        r.tree:add(fields["token.status"], status):set_generated()
        if status == 0 and (key or not null) then message.token_item:add_proto_expert_info(experts.token) end
    end

    local function authorized(r, message)
        local before = r.position
        local number = r:number("sequence_number", 4)
        show_token(r, message)
        message.info = "Sequence " .. number
        local list = r.position
        requested(r)
        local signed = message.mn_octets .. r.tvb(before, 4):raw()
        if r.stop > list then signed = signed .. r.tvb(list, r.stop - list):raw() end
        check_token(r, message, signed)
    end

    -- --- the bodies ---

    local function mn_address(r, message)
        local range, text = address(r, "mn_address", message.is_ipv4)
        message.mn, message.mn_octets = text, range:raw()
    end

    local bodies = {}
    bodies[1] = function(r, message)
        mn_address(r, message)
        address(r, "access_router_address", message.is_ipv4)
        authorized(r, message)
    end
    bodies[2] = function(r, message)
        mn_address(r, message)
        records(r, message)
    end
    bodies[3] = function(r, message)
        message.elapsed = r.position
        r:number("elapsed_time", 4)
        mn_address(r, message)
        blocks(r, message)
    end
    bodies[4] = function(r, message)
        message.elapsed = r.position
        r:number("elapsed_time", 4)
        mn_address(r, message)
        local algorithm = r:number("algorithm", 2)
        local length = r:number("key_length", 2)
        local key = r:field("key", length)
        blocks(r, message)
        if algorithm == 1 and length > 0 then settings.learned_keys[message.mn] = key:raw() end
    end
    bodies[5] = bodies[2]
    bodies[6] = function(r, message)
        mn_address(r, message)
        if r:left() > 0 then
            local _, item = r:field("excess", r:left())
            r:refuse("octets too many for a CTC", "malformed", item)
        end
    end
    bodies[7] = function(r, message)
        mn_address(r, message)
        authorized(r, message)
    end

    local FLAG = { [1] = "acknowledge", [3] = "acknowledge", [4] = "acknowledge", [5] = "success" }

    local function header(r, size, message)
        local first = r:take(1, "version")
        local version_item = r.tree:add(fields.version, first)
        local type_item = r.tree:add(fields.type, first)
        message.type = first:uint() % 32
        local flags = r:take(1, "flags")
        message.is_ipv4 = flags:uint() >= 128
        r.tree:add(fields.ipv4, flags)
        local flag = FLAG[message.type]
        if flag then r.tree:add(fields[flag], flags) end
        local reserved = flags:uint() % (flag and 64 or 128)
        local item = r.tree:add(fields[flag and "reserved" or "reserved_bits"], flags)
        local length, length_item = r:number("length", 2)
        if math.floor(first:uint() / 32) ~= 1 then r:refuse("only version 1 is known", "malformed", version_item) end
        if not bodies[message.type] then r:refuse("no message type", "malformed", type_item) end
        if length ~= size then
            r:refuse(length .. ", yet there are " .. size .. " octets", "malformed", length_item)
        end
        if reserved ~= 0 then message.reserved_item = item end
    end

    -- One message, all of tvb.  Gives a table of what it is, or nil where it is none.
    function messages.show(tvb, pinfo, tree)
        local size = tvb:reported_len()
        local message = {}
        local r = Reader.new(tvb, 0, size, tree)
        if tvb:len() < size then
            tree:add_proto_expert_info(experts.truncated)
            r.stop = tvb:len()
        end
        local fault = Reader.guard(function()
            header(r, size, message)
            tree:append_text(", " .. names.short[message.type])
            bodies[message.type](r, message)
        end, "malformed")
        if fault then
            if r.stop > r.position then
                tree:add(fields.excess, tvb(r.position, r.stop - r.position))
            end
            return nil, fault.text
        end
        if message.reserved_item then unusual(message.reserved_item, "reserved bits set in the flags") end
        tree:append_text(", MN " .. message.mn)
        local octets = tvb(0, r.stop):raw()
        if message.elapsed then -- a repetition tells another time
            octets = octets:sub(1, message.elapsed) .. octets:sub(message.elapsed + 5)
        end
        message.octets = octets
        local place = tvb:offset() .. "+" .. size
        message.note = tracking.show(place, message, pinfo, tree)
        return message
    end

    return messages
end
