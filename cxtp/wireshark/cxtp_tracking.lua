-- What belongs together: request and response, a message and its repetitions.
-- Learned on the first pass in the order of the frames, kept per message, shown on every pass.
return function(fields, experts)
    local tracking = {}
    local MAX_HANDOVER_TIME = 15 -- seconds (docs/decisions.md, 4): a message alike and later is another one
    local seen, notes, asked

    function tracking.forget()
        seen, notes, asked = {}, {}, {}
    end
    tracking.forget()

    local function ends(pinfo)
        local source = tostring(pinfo.src) .. ":" .. pinfo.src_port
        local destination = tostring(pinfo.dst) .. ":" .. pinfo.dst_port
        return source .. ">" .. destination, destination .. ">" .. source
    end

    -- the exchanges: which message asks (`asks`), which answers (`answers`)
    local EXCHANGES = {
        [1] = { asks = "activate" }, [2] = { answers = { "activate" } },
        [3] = { asks = "data", answers = { "request" } }, [4] = { asks = "data", answers = { "request" } },
        [5] = { answers = { "data" } }, [7] = { asks = "request" },
    }

    -- `message`: type, mn (text), octets (those that a repetition has again), transfer_id or nil
    local function learn(note, message, pinfo)
        local there, back = ends(pinfo)
        local now = tonumber(pinfo.abs_ts)
        local same = there .. "|" .. message.octets
        local before = seen[same]
        if before and now - before.time <= MAX_HANDOVER_TIME and message.type ~= 6 then
            note.retransmission_of = before.frame
        else
            seen[same] = { frame = pinfo.number, time = now }
        end
        local exchange = EXCHANGES[message.type] or {}
        for _, what in ipairs(exchange.answers or {}) do
            local suffix = "|" .. what .. "|" .. message.mn
            local request = message.transfer_id and what == "data"
                and asked[back .. suffix .. "|" .. message.transfer_id]
            request = request or asked[back .. suffix]
            if request then
                note.response_to, note.response_time = request.frame, now - request.time
                for _, asking in ipairs(request.notes) do asking.response_in = asking.response_in or pinfo.number end
            end
        end
        if not exchange.asks then return end
        local key = there .. "|" .. exchange.asks .. "|" .. message.mn
        if note.retransmission_of then -- the time counts from the first
            local first = asked[key]
            if first then
                first.notes[#first.notes + 1] = note
                note.response_in = first.notes[1].response_in
            end
            return
        end
        local request = { frame = pinfo.number, time = now, notes = { note } }
        asked[key] = request
        if message.transfer_id then -- all parts of a transfer have one answer
            local older = asked[key .. "|" .. message.transfer_id]
            for _, other in ipairs(older and older.notes or {}) do request.notes[#request.notes + 1] = other end
            asked[key .. "|" .. message.transfer_id] = request
        end
    end

    function tracking.show(place, message, pinfo, tree)
        local key = pinfo.number .. ":" .. place
        local note = notes[key]
        if not note then
            note = {}
            notes[key] = note
            learn(note, message, pinfo)
        end
        for _, name in ipairs({ "response_in", "response_to", "retransmission_of" }) do
            if note[name] then
                local item = tree:add(fields[name], note[name])
                item:set_generated()
                if name == "retransmission_of" then
                    item:add_proto_expert_info(experts.retransmission, "Sent before, in frame " .. note[name])
                end
            end
        end
        if note.response_time then
            local whole = math.floor(note.response_time)
            local rest = math.floor((note.response_time - whole) * 1e9 + 0.5)
            tree:add(fields.response_time, NSTime.new(whole, rest)):set_generated()
        end
        return note
    end

    return tracking
end
