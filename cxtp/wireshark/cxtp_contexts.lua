-- Contexts (docs/context-formats.md): the frame of IKE_SA and IPsec_SA (2, 7), and the other types (5, 6).
return function(names, fields, Reader, parameters_of)
    local contexts = {}
    local ike, ipsec, vendor = parameters_of(names, fields, Reader)

    -- --- the frame (2) ---

    local LEVELS = { [0] = "M", "O", "V" }
    local STATUS = { context_malformed = 3, context_missing = 4, context_unsupported = 11 }

    local function presence_bit(level, number)
        if level == 0 then return number - 1 end
        if level == 1 then return math.min(15 + number, 29) end
        return 30 + number
    end

    local function label(format, parameter)
        local letter = LEVELS[parameter.level]
        local name = letter and format.names[letter][parameter.number] or nil
        if letter == "V" and parameter.number == 0 then name = "vendor parameter" end
        return (letter or "?") .. parameter.number .. (name and " " .. name or "")
    end

    -- all parameters up to `stop`, their headers in the tree
    local function frame(r, format, size)
        if size < 8 then r:refuse("the header is cut short") end
        local version, item = r:number("context.format_version", 1)
        if version ~= 1 then r:refuse("another Format Version", "context_unsupported", item) end
        r:reserved(1)
        local count, count_item = r:number("context.parameter_count", 2)
        if count > 1024 then r:refuse("more than 1024 parameters", nil, count_item) end
        local total, total_item = r:number("context.total_length", 4)
        if total < 8 or total > 1024 * 1024 then r:refuse("Total Length is not 8 to 1048576", nil, total_item) end
        if total > size then r:refuse(total .. " octets announced, " .. size .. " came", nil, total_item) end
        local found, start = {}, r.position - 8
        local padding = size - total
        if padding > 0 then
            local range = r.tvb(start + total, padding)
            local padding_item = r.tree:add(fields["context.padding"], range)
            if padding > 7 or range:raw():find("[^%z]") then
                r:refuse("not at most 7 octets of zero", nil, padding_item)
            end
        end
        r.stop = start + total
        for _ = 1, count do
            local header = r:take(4, "parameter")
            local head, length = header(0, 2):uint(), header(2, 2):uint()
            local parameter = { level = math.floor(head / 0x4000), number = head % 0x4000, length = length }
            parameter.start = r.position
            r:take(length, label(format, parameter))
            local subtree = r.tree:add(fields.parameter, r.tvb(parameter.start - 4, 4 + length))
            subtree:set_text(label(format, parameter))
            subtree:add(fields["parameter.level"], header(0, 2))
            subtree:add(fields["parameter.number"], header(0, 2))
            subtree:add(fields["parameter.length"], header(2, 2))
            parameter.tree = subtree
            found[#found + 1] = parameter
        end
        if r:left() > 0 then r:refuse("octets left over behind the last parameter") end
        return found
    end

    local function check(r, format, parameters, vector)
        local last_level, last_number, bits = -1, 0, {}
        for _, parameter in ipairs(parameters) do
            local level, number = parameter.level, parameter.number
            if level == 3 then r:refuse("unknown level 3", nil, parameter.tree) end
            local repeatable = level == 2 and number == 0
            local same = level == last_level and number == last_number
            if level < last_level or (level == last_level and number < last_number) or (same and not repeatable) then
                r:refuse("comes twice or out of order", nil, parameter.tree)
            end
            parameter.read = repeatable and vendor or format[LEVELS[level]][number]
            if not parameter.read then
                if level ~= 1 then r:refuse("unknown parameter", "context_unsupported", parameter.tree) end
                if number == 0 then r:refuse("number 0 is reserved", nil, parameter.tree) end
            end
            last_level, last_number = level, number
            bits[presence_bit(level, number)] = true
        end
        if not vector then r:refuse("no Presence Vector") end
        for bit = 0, 31 do
            local told = math.floor(vector / 2 ^ (31 - bit)) % 2 == 1
            if told ~= (bits[bit] or false) then r:refuse("the Presence Vector does not agree with the parameters") end
        end
        for number = 1, 12 do
            if format.M[number] and not bits[number - 1] then
                r:refuse("M" .. number .. " " .. format.names.M[number] .. " is missing", "context_missing")
            end
        end
    end

    local function value(tvb, parameter)
        local r = Reader.new(tvb, parameter.start, parameter.start + parameter.length, parameter.tree)
        if parameter.read then
            parameter.read(r)
            if r:left() > 0 then r:refuse("octets left over") end
        else
            r:field("parameter.value", r:left())
        end
    end

    local function framed(format)
        return function(r, size, vector)
            local parameters = frame(r, format, size)
            local first = Reader.guard(function() check(r, format, parameters, vector) end)
            for _, parameter in ipairs(parameters) do
                local fault = Reader.guard(function() value(r.tvb, parameter) end)
                first = first or fault
            end
            if first then r.first = first end
        end
    end

    -- --- the other types ---

    local function only_padding(r, most)
        if r:left() == 0 then return end
        local range = r.tvb(r.position, r:left())
        local item = r.tree:add(fields["context.padding"], range)
        if range:len() > most or range:raw():find("[^%z]") then r:refuse("not padding", nil, item) end
    end

    local function listener(r, _, vector)
        if vector then r:refuse("there is no Presence Vector") end
        r:field("listener.subnet_prefix", 8)
        local group, item = r:field("listener.group", 16)
        if group(0, 1):uint() ~= 0xFF then r:refuse("no multicast address", nil, item) end
        only_padding(r, 7)
    end

    local function manifest(r, _, vector)
        if vector then r:refuse("a manifest has no Presence Vector") end
        local format, item = r:number("manifest.format", 1)
        if format ~= 1 then r:refuse("another Format", "context_unsupported", item) end
        r:reserved(1)
        local part = r:number("manifest.part", 2)
        local parts = r:number("manifest.parts", 2)
        r:reserved(2)
        r.found = { transfer_id = r:number("manifest.transfer_id", 4) }
        r:number("manifest.contexts", 4)
        r:field("manifest.generation", 8)
        r:field("manifest.digest", 16)
        only_padding(r, 7)
        if part >= parts then r:refuse("part " .. part .. " of " .. parts) end
    end

    local function replica(r)
        if r:left() < 4 then r:refuse("cut short", "context_unsupported") end
        local format, item = r:number("replica.format", 1)
        if format ~= 1 then r:refuse("another Format", "context_unsupported", item) end
        local kind, kind_item = r:number("replica.kind", 1)
        if kind ~= 1 and kind ~= 2 then r:refuse("unknown Kind", "context_unsupported", kind_item) end
        r:reserved(2)
        if r:left() > 0 then r:field("context.padding", r:left()) end
    end

    local readers = { ike_sa = framed(ike), ipsec_sa = framed(ipsec), manifest = manifest, replica = replica,
        listener = listener }

    -- The context in tvb(start, size); `kind` is nil for a type that is not known.  Gives what tracking wants to know.
    function contexts.show(kind, tvb, start, size, vector, parent)
        local range = tvb(start, size)
        local item = parent:add(fields.context, range)
        if not kind then
            item:set_text("Context of a type that is not known here")
            return {}
        end
        local r = Reader.new(tvb, start, start + size, item)
        local fault = Reader.guard(function() readers[kind](r, size, vector) end) or r.first
        if fault then
            item:add(fields["context.status"], STATUS[fault.kind]):set_generated()
            item:append_text(": " .. fault.text)
        end
        return r.found or {}
    end

    return contexts
end
