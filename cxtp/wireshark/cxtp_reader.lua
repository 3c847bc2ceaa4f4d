-- Reads a range of octets field by field into the tree, never beyond its end.
-- A refusal is a Lua error that holds a table: kind (of expert info), text, item (where it is shown).
return function(fields, experts)
    local Reader = {}
    Reader.__index = Reader

    function Reader.new(tvb, position, stop, tree)
        return setmetatable({ tvb = tvb, position = position, stop = stop, tree = tree }, Reader)
    end

    function Reader:left()
        return self.stop - self.position
    end

    function Reader:refuse(text, kind, item)
        error({ kind = kind or "context_malformed", text = text, item = item or self.tree }, 0)
    end

    function Reader:take(octets, what)
        if self:left() < octets then
            self:refuse(what .. ": cut short, " .. octets .. " octets needed, " .. self:left() .. " left")
        end
        local range = self.tvb(self.position, octets)
        self.position = self.position + octets
        return range
    end

    -- a field of so many octets: its range and its item in the tree
    function Reader:field(name, octets)
        local range = self:take(octets, name)
        return range, self.tree:add(fields[name], range)
    end

    -- an unsigned integer of at most 32 bits
    function Reader:number(name, octets)
        local range, item = self:field(name, octets)
        return range:uint(), item
    end

    -- fields that share the next octets; gives their number
    function Reader:bits(octets, ...)
        local range = self:take(octets, (...))
        for _, name in ipairs({ ... }) do
            local item = self.tree:add(fields[name], range)
            if name:find("reserved_bits_", 1, true) then
                local width = tonumber(name:match("%d+$"))
                if range:uint() % 2 ^ width ~= 0 then item:add_proto_expert_info(experts.reserved) end
            end
        end
        return range:uint()
    end

    function Reader:reserved(octets)
        local range, item = self:field("context.reserved", octets)
        if range:uint() ~= 0 then item:add_proto_expert_info(experts.reserved) end
    end

    -- Octets: Length 16, then so many
    function Reader:octets(name, minimum, maximum)
        local length = self:number("context.octets", 2)
        local range, item = self:field(name, length)
        if length < (minimum or 0) or length > (maximum or 0xFFFF) then
            self:refuse(name .. ": not " .. minimum .. " to " .. maximum .. " octets", nil, item)
        end
        return range, item
    end

    function Reader:count(minimum, maximum)
        local count, item = self:number("context.count", 1)
        if count < minimum or count > maximum then
            self:refuse("not " .. minimum .. " to " .. maximum .. " items", nil, item)
        end
        return count
    end

    -- an address of the family that `version` (4 or 6) tells
    function Reader:address(name, version)
        if version == 4 then return self:field(name, 4) end
        return self:field(name .. "6", 16)
    end

    -- a subtree of what `read` reads with a reader of its own
    function Reader:group(name, read)
        local item = self.tree:add(fields[name], self.tvb(self.position, 0))
        local inner = Reader.new(self.tvb, self.position, self.stop, item)
        local fine, result = pcall(read, inner)
        item:set_len(inner.position - self.position)
        self.position = inner.position
        if not fine then error(result, 0) end
        return result, item
    end

    -- an item from here to `stop` whose faults stay inside it; gives the fault, or nil and the result
    function Reader.guard(read, kind)
        local fine, result = pcall(read)
        if fine then return nil, result end
        if type(result) ~= "table" then error(result, 0) end
        result.kind = kind or result.kind
        result.item:add_proto_expert_info(experts[result.kind], result.text)
        return result
    end

    return Reader
end
