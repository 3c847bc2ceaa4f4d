-- As much of Wireshark's Lua interface as the dissector uses, so that it runs under a Lua that no Wireshark here has.
-- lua wireshark_stub.lua DISSECTOR [TOKEN_KEYS]: messages in, one a line in hexadecimal; trees out, as PDML has them.
-- Whatever is not defined here or by Lua itself is an error.

local function class(methods)
    methods.__index = methods
    return methods
end
local function naming(prefix)
    return setmetatable({}, { __index = function(_, name) return prefix .. name end })
end

-- --- octets ---

local Range = class({})
local function range_of(octets, first, length)
    if first < 0 or length < 0 or first + length > #octets then error("Range is out of bounds", 2) end
    return setmetatable({ octets = octets, first = first, length = length }, Range)
end
function Range:__call(offset, length)
    offset = offset or 0
    length = length or self.length - offset
    if offset < 0 or offset + length > self.length then error("Range is out of bounds", 2) end
    return range_of(self.octets, self.first + offset, length)
end
function Range:len() return self.length end
function Range:reported_len() return self.length end
function Range:offset() return self.first end
function Range:raw() return self.octets:sub(self.first + 1, self.first + self.length) end
function Range:bytes() return ByteArray.new(self:raw()) end
function Range:tvb() return range_of(self:raw(), 0, self.length) end
function Range:uint()
    if self.length < 1 or self.length > 4 then error("uint() does not handle " .. self.length .. " bytes", 2) end
    return (string.unpack(">I" .. self.length, self:raw()))
end
function Range:ipv4()
    if self.length ~= 4 then error("The range must be 4 octets long", 2) end
    return string.format("%d.%d.%d.%d", self:raw():byte(1, 4))
end
function Range:ipv6()
    if self.length ~= 16 then error("The range must be 16 octets long", 2) end
    return string.format(string.rep("%x", 8, ":"), string.unpack(">" .. string.rep("I2", 8), self:raw()))
end

ByteArray = class({})
function ByteArray.new(octets) return setmetatable({ octets = octets or "" }, ByteArray) end
function ByteArray:append(other) self.octets = self.octets .. other.octets end
function ByteArray:len() return #self.octets end
function ByteArray:tvb() return range_of(self.octets, 0, #self.octets) end

-- --- declarations ---

base, expert = naming("base."), { group = naming("group."), severity = naming("severity.") }
DESEGMENT_ONE_MORE_SEGMENT = 0x0fffffff
ProtoField = setmetatable({}, { __index = function(_, kind)
    return function(abbreviation, label, _, _, mask)
        if mask then assert(math.tointeger(mask), "a mask is an integer") end
        return { kind = kind, name = abbreviation, label = label, mask = mask and math.tointeger(mask) }
    end
end })
ProtoExpert = { new = function(abbreviation) return { expert = abbreviation } end }
local function default(_, value) return value end
Pref = { string = default, bool = default, uint = default }
function Proto(name) return { proto = name, prefs = {} } end
function set_plugin_info() end

local tables = {}
DissectorTable = { get = function(name)
    tables[name] = tables[name] or {}
    return { add = function(_, key, proto) tables[name][key] = proto end }
end }
Dissector = { get = function() return { call = function() return 0 end } end }
Field = { new = function() return function() end end }
Address = { ip = tostring, ipv6 = tostring }
NSTime = { new = function(seconds, nanoseconds)
    assert(math.type(seconds) == "integer" and math.type(nanoseconds) == "integer")
    return { seconds = seconds, nanoseconds = nanoseconds }
end }

-- --- the tree ---

local Item = class({})
local function item(name, shown, value) return setmetatable({ name = name, shown = shown, value = value }, Item) end
local function escaped(text) return (tostring(text):gsub("[&<>\"]", { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;",
    ["\""] = "&quot;" })) end
local function hex(octets) return (octets:gsub(".", function(octet) return string.format("%02x", octet:byte()) end)) end

local function shown_as(field, what)
    if getmetatable(what) ~= Range then return type(what) == "number" and math.tointeger(what) or "", "" end
    local raw = what:raw()
    if field.kind == "ipv4" or field.kind == "ipv6" then return what[field.kind](what), hex(raw) end
    if not (field.kind:match("^uint") or field.kind == "bool") then return "", hex(raw) end
    local number = string.unpack(">I" .. #raw, raw)
    if field.mask then
        number = number & field.mask
        if field.kind == "bool" then return number ~= 0 and "True" or "False", hex(raw) end
        local mask = field.mask
        while mask & 1 == 0 do number, mask = number >> 1, mask >> 1 end
    end
    return string.format("0x%x", number), hex(raw)
end

function Item:add(what, value)
    if type(what) ~= "table" then error("a field is missing in the declarations", 2) end
    local name = what.proto or what.name or ""
    local added = item(name, shown_as(what.kind and what or { kind = "none" }, value))
    self[#self + 1] = added
    return added
end
function Item:add_proto_expert_info(info, text)
    if not (info and info.expert) then error("no such expert info", 2) end
    self[#self + 1] = item(info.expert, text or "", "")
end
function Item:set_text(text) assert(type(text) == "string") return self end
function Item:append_text(text) assert(type(text) == "string" or type(text) == "number") return self end
function Item:set_len(length) assert(math.type(length) == "integer" and length >= 0) return self end
function Item:set_generated() return self end
function Item:write(kind)
    io.write(string.format('<%s name="%s" show="%s" value="%s">', kind, self.name, escaped(self.shown), self.value))
    for _, child in ipairs(self) do child:write("field") end
    io.write("</", kind, ">")
end

-- --- the run ---

setmetatable(_G, { __index = function(_, name)
    if name == "bit" or name == "bit32" then return nil end -- what a plain Lua 5.4 has not
    error("no such global: " .. name, 2)
end })
dofile(arg[1])
local cxtp = tables["udp.port"][5091]
if arg[2] then cxtp.prefs.token_keys = arg[2] end
cxtp.init()
io.write("<pdml>\n")
local number = 0
for line in io.lines() do
    number = number + 1
    local octets = line:gsub("%x%x", function(pair) return string.char(tonumber(pair, 16)) end)
    local pinfo = { cols = { protocol = "", info = "" }, port_type = 3, src = "192.0.2.1", dst = "192.0.2.2",
        src_port = 5091, dst_port = 5091, number = number, abs_ts = number * 20.0 }
    local root = item("", "", "")
    cxtp.dissector(range_of(octets, 0, #octets), pinfo, root)
    for _, tree in ipairs(root) do tree:write("proto") end
    io.write("\n")
end
io.write("</pdml>\n")
