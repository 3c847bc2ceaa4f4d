-- The authorization token (RFC 4067, 2.5.1): the first 32 bits of HMAC-SHA1.
-- With Lua 5.2's bit32, or LuaBitOp, or 5.4's operators.
return function()
    local token = {}
    local bxor, band, bor, rol

    if bit32 then
        bxor, band, bor, rol = bit32.bxor, bit32.band, bit32.bor, bit32.lrotate
    elseif bit then
        bxor, band, bor, rol = bit.bxor, bit.band, bit.bor, bit.rol
    else -- as text: Lua 5.2 does not know these operators
        bxor, band, bor, rol = load([[
            return function(a, b, c) return a ~ b ~ (c or 0) end, function(a, b) return a & b end,
                function(a, b, c) return a | b | (c or 0) end,
                function(a, n) a = a & 0xFFFFFFFF return ((a << n) | (a >> (32 - n))) & 0xFFFFFFFF end
        ]])()
    end

    local function word(octets, at)
        local a, b, c, d = octets:byte(at, at + 3)
        return ((a * 256 + b) * 256 + c) * 256 + d
    end
    local function octets_of(number)
        number = number % 2 ^ 32
        local made = {}
        for shift = 3, 0, -1 do made[#made + 1] = string.char(math.floor(number / 256 ^ shift) % 256) end
        return table.concat(made)
    end

    function token.sha1(text)
        local bits = #text * 8
        local data = text .. "\128" .. string.rep("\0", (55 - #text) % 64)
            .. octets_of(math.floor(bits / 2 ^ 32)) .. octets_of(bits)
        local h = { 0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0 }
        local w = {}
        for start = 1, #data, 64 do
            for t = 0, 15 do w[t] = word(data, start + 4 * t) end
            for t = 16, 79 do w[t] = rol(bxor(bxor(w[t - 3], w[t - 8]), bxor(w[t - 14], w[t - 16])), 1) % 2 ^ 32 end
            local a, b, c, d, e = h[1], h[2], h[3], h[4], h[5]
            for t = 0, 79 do
                local f, k
                if t < 20 then f, k = bxor(d, band(b, bxor(c, d))), 0x5A827999
                elseif t < 40 then f, k = bxor(b, c, d), 0x6ED9EBA1
                elseif t < 60 then f, k = bor(band(b, c), band(d, bor(b, c))), 0x8F1BBCDC
                else f, k = bxor(b, c, d), 0xCA62C1D6 end
                local sum = (rol(a, 5) % 2 ^ 32 + f % 2 ^ 32 + e + k + w[t]) % 2 ^ 32
                a, b, c, d, e = math.floor(sum), a, rol(b, 30) % 2 ^ 32, c, d
                c = math.floor(c)
            end
            for place, word_ in ipairs({ a, b, c, d, e }) do
                h[place] = math.floor((h[place] + word_) % 2 ^ 32)
            end
        end
        return octets_of(h[1]) .. octets_of(h[2]) .. octets_of(h[3]) .. octets_of(h[4]) .. octets_of(h[5])
    end

    function token.hmac(key, text)
        if #key > 64 then key = token.sha1(key) end
        local inner, outer = {}, {}
        for at = 1, 64 do
            local octet = key:byte(at) or 0
            inner[at] = string.char(bxor(octet, 0x36))
            outer[at] = string.char(bxor(octet, 0x5C))
        end
        return token.sha1(table.concat(outer) .. token.sha1(table.concat(inner) .. text))
    end

    function token.compute(key, signed)
        return token.hmac(key, signed):sub(1, 4)
    end

    -- "192.0.2.7=0011aa, 2001:db8::7=...": a key per MN; without an address, the key of all that have none
    function token.keys_of(text)
        local keys = {}
        for entry in text:gmatch("[^,%s]+") do
            local address, hex = entry:match("^(.-)=(%x+)$")
            hex = hex or entry:match("^%x+$")
            if hex and #hex % 2 == 0 then
                local key = hex:gsub("%x%x", function(pair) return string.char(tonumber(pair, 16)) end)
                if address then
                    local fine, parsed = pcall(function()
                        if address:find(":", 1, true) then return tostring(Address.ipv6(address)) end
                        return tostring(Address.ip(address))
                    end)
                    if fine then keys[parsed] = key end
                else
                    keys[1] = key
                end
            end
        end
        return keys
    end

    return token
end
