-- Wireshark's dissector of the Context Transfer Protocol (RFC 4067) and of the IKE_SA and IPsec_SA contexts in it.
-- Wireshark 4.0 and later, Lua 5.2 and 5.4.  Put there by `cxtp wireshark install`.

set_plugin_info({ version = "1.0", author = "cxtp", repository = "cxtp" })

local folder = debug.getinfo(1, "S").source:match("^@(.*[/\\])") or ""
local function part(name)
    return dofile(folder .. "cxtp_" .. name .. ".lua")
end

local PORT, PPID = 5091, 0x43585450
local ICMP_TYPES = { icmp = 41, icmpv6 = 150 }

local cxtp = Proto("cxtp", "Context Transfer Protocol")
local names = part("names")()
local fields, experts = part("fields")(names)
local every_field, every_expert = {}, {}
for _, field in pairs(fields) do every_field[#every_field + 1] = field end
for _, expert in pairs(experts) do every_expert[#every_expert + 1] = expert end
cxtp.fields = every_field
cxtp.experts = every_expert

-- --- preferences ---

cxtp.prefs.token_keys = Pref.string("Token keys", "",
    "Keys that MNs share with their routers, in hexadecimal: 192.0.2.7=0011aa, 2001:db8::7=22bb, or one key for all")
cxtp.prefs.learn_keys = Pref.bool("Use keys of PCTDs", true,
    "Verify tokens with the keys that PCTDs in the capture carry")
cxtp.prefs.desegment = Pref.bool("Reassemble messages over TCP", true, "Messages may span TCP segments")
cxtp.prefs.continuation = Pref.uint("FPT of continuations", 0xFF00, "docs/context-formats.md, 1.1")
cxtp.prefs.ike_sa = Pref.uint("FPT of IKE_SA", 0xFF01, "docs/context-formats.md, 1.1")
cxtp.prefs.ipsec_sa = Pref.uint("FPT of IPsec_SA", 0xFF02, "docs/context-formats.md, 1.1")
cxtp.prefs.manifest = Pref.uint("FPT of the transfer manifest", 0xFF03, "docs/context-formats.md, 1.1")
cxtp.prefs.replica = Pref.uint("FPT of replicas", 0xFF04, "docs/context-formats.md, 1.1")

local token = part("token")()
local settings = { numbers = {}, learned_keys = {}, token_keys = {}, learn_keys = true }
local kinds = {}
local TITLES = {
    continuation = "continuation", ike_sa = "IKE_SA", ipsec_sa = "IPsec_SA", manifest = "transfer manifest",
    replica = "replica", listener = "IPv6 multicast listener",
}

local function read_preferences()
    kinds = { [1] = "listener" }
    for _, name in ipairs({ "replica", "manifest", "ipsec_sa", "ike_sa", "continuation" }) do
        settings.numbers[name] = cxtp.prefs[name]
        kinds[cxtp.prefs[name]] = name
    end
    settings.learn_keys = cxtp.prefs.learn_keys
    settings.token_keys = token.keys_of(cxtp.prefs.token_keys)
end

function settings.kind_of(number)
    return kinds[number]
end
function settings.name_of(number)
    if number == 0 then return names.feature_profile_type[0] end
    return TITLES[kinds[number]] or string.format("0x%04x", number)
end

cxtp.prefs_changed = read_preferences
read_preferences()

local Reader = part("reader")(fields, experts)
local contexts = part("contexts")(names, fields, Reader, part("parameters"))
local tracking = part("tracking")(fields, experts)
local messages = part("messages")(names, fields, experts, Reader, contexts, token, tracking, settings)

function cxtp.init()
    tracking.forget()
    settings.learned_keys = {}
    read_preferences()
end

-- --- one message, and a stream of them ---

local function columns(pinfo, message, again)
    pinfo.cols.protocol = "CXTP"
    local text = "Malformed"
    if message then
        text = names.short[message.type] .. " MN=" .. message.mn
        if message.info then text = text .. " " .. message.info end
        if message.failures and message.failures > 0 then text = text .. " Refused=" .. message.failures end
        if message.note.retransmission_of then text = "[Retransmission] " .. text end
    end
    if again then pinfo.cols.info:append("; " .. text) else pinfo.cols.info = text end
end

local function show(tvb, pinfo, root, again)
    local message = messages.show(tvb, pinfo, root:add(cxtp, tvb()))
    columns(pinfo, message, again)
end

-- Each message tells its own Length: the framing over TCP and TLS.
local function stream(tvb, pinfo, root)
    local offset = 0
    while offset < tvb:len() do
        local left = tvb:len() - offset
        local length = left >= 4 and tvb(offset + 2, 2):uint() or nil
        if length and length < 4 then -- the rest can't be cut
            show(tvb(offset):tvb(), pinfo, root, offset > 0)
            return tvb:len()
        end
        if not length or length > left then
            if cxtp.prefs.desegment and tvb:len() == tvb:reported_len() then
                pinfo.desegment_offset = offset
                pinfo.desegment_len = length and length - left or DESEGMENT_ONE_MORE_SEGMENT
                pinfo.cols.protocol = "CXTP"
                return tvb:len()
            end
            length = left
        end
        show(tvb(offset, length):tvb(), pinfo, root, offset > 0)
        offset = offset + length
    end
    return tvb:len()
end

local function is_tls(tvb) -- a record's content type and major version; CXTP begins with 0x21 to 0x27
    return tvb:len() >= 2 and tvb(0, 1):uint() >= 0x14 and tvb(0, 1):uint() <= 0x17 and tvb(1, 1):uint() == 3
end

function cxtp.dissector(tvb, pinfo, root)
    if tvb:len() == 0 then return 0 end
    if pinfo.port_type == 2 then
        if is_tls(tvb) then return Dissector.get("tls"):call(tvb, pinfo, root) end
        return stream(tvb, pinfo, root)
    end
    local again = pinfo.port_type == 4 and tostring(pinfo.cols.protocol) == "CXTP" -- a second chunk of the packet
    show(tvb, pinfo, root, again)
    return tvb:len()
end

DissectorTable.get("udp.port"):add(PORT, cxtp)
DissectorTable.get("tcp.port"):add(PORT, cxtp)
DissectorTable.get("tls.port"):add(PORT, cxtp)
DissectorTable.get("sctp.port"):add(PORT, cxtp)
DissectorTable.get("sctp.ppi"):add(PPID, cxtp)

-- --- ICMP (RFC 4067, 3.2; RFC 4065, 3, 4 and 8) ---

-- Wireshark has no table of ICMP types: its own dissector is called first, always, and ours after it for CXTP's type.
local function sum(range)
    local total = 0
    for at = 0, range:len() - 2, 2 do total = total + range(at, 2):uint() end
    if range:len() % 2 == 1 then total = total + range(range:len() - 1, 1):uint() * 256 end
    return total
end

local function checksum_fits(tvb, pinfo, name)
    local total = sum(tvb())
    if name == "icmpv6" then
        for _, address in ipairs({ pinfo.net_src, pinfo.net_dst }) do
            for _, group in ipairs(settings.ipv6_groups(tostring(address))) do total = total + group end
        end
        total = total + tvb:len() + 58
    end
    while total > 0xFFFF do total = total % 0x10000 + math.floor(total / 0x10000) end
    return total == 0xFFFF
end

-- the eight groups of an IPv6 address as Wireshark writes it
function settings.ipv6_groups(text)
    local function groups(piece)
        local found = {}
        for group in piece:gmatch("[^:]+") do
            local a, b, c, d = group:match("^(%d+)%.(%d+)%.(%d+)%.(%d+)$")
            if a then
                found[#found + 1] = a * 256 + b
                found[#found + 1] = c * 256 + d
            else
                found[#found + 1] = tonumber(group, 16)
            end
        end
        return found
    end
    local head, tail = text:match("^(.-)::(.*)$")
    if not head then return groups(text) end
    local first, last = groups(head), groups(tail)
    while #first + #last < 8 do first[#first + 1] = 0 end
    for _, group in ipairs(last) do first[#first + 1] = group end
    return first
end

local hop_limit_fields = { icmp = Field.new("ip.ttl"), icmpv6 = Field.new("ipv6.hlim") }

local function show_in_icmp(tvb, pinfo, root, name)
    local tree = root:add(cxtp, tvb())
    local function refuse(kind, text)
        tree:add_proto_expert_info(experts[kind], text)
        columns(pinfo, nil)
    end
    if tvb:len() < tvb:reported_len() then return tree:add_proto_expert_info(experts.truncated) end
    if tvb:len() < 8 then return refuse("malformed", "shorter than the header of an experimental mobility message") end
    if not checksum_fits(tvb, pinfo, name) then return refuse("checksum", "the ICMP checksum does not match") end
    if tvb(1, 1):uint() ~= 0 then return refuse("malformed", "Code is not 0") end
    if tvb(4, 1):uint() ~= 1 then return refuse("malformed", "Subtype is not CXTP's 1") end
    tree:set_len(0)
    local hop_limit = hop_limit_fields[name]()
    if hop_limit and hop_limit.value ~= 255 then tree:add_proto_expert_info(experts.hop_limit) end
    if tvb:len() == 8 then return refuse("malformed", "no message") end
    local inner = tvb(8):tvb()
    tree:set_len(tvb:len())
    tree:set_text("Context Transfer Protocol")
    columns(pinfo, messages.show(inner, pinfo, tree))
end

for name, number in pairs(ICMP_TYPES) do
    local original = Dissector.get(name)
    local carrier = Proto("cxtp_" .. name, "CXTP in " .. string.upper(name))
    function carrier.dissector(tvb, pinfo, root)
        local ours = tvb:len() >= 5 and tvb(0, 1):uint() == number and tvb(4, 1):uint() == 1
        if ours and name == "icmpv6" then -- Wireshark's own knows FMIPv6 alone under type 150, and fails
            local tree = root:add(tvb(0, math.min(8, tvb:len())), "ICMPv6, experimental mobility: CXTP")
            tree:add(tvb(0, 1), "Type: 150")
            tree:add(tvb(1, 1), "Code: " .. tvb(1, 1):uint())
            tree:add(tvb(2, 2), string.format("Checksum: 0x%04x", tvb(2, 2):uint()))
            tree:add(tvb(4, 1), "Subtype: CXTP (1)")
            show_in_icmp(tvb, pinfo, root, name)
            return tvb:len()
        end
        -- What it finds malformed would be a Lua error here, in place of what Wireshark says without us.
        local fine, taken = pcall(original.call, original, tvb, pinfo, root)
        local other = tvb:len() >= 5 and tvb(4, 1):uint() == 0 -- subtype 0 is CARD (RFC 4066)
        if tvb:len() >= 1 and tvb(0, 1):uint() == number and not other then
            show_in_icmp(tvb, pinfo, root, name)
        elseif not fine then
            root:add(carrier, tvb()):add_proto_expert_info(experts.lower, "[Malformed Packet: " .. name:upper() .. "]")
            pinfo.cols.info:append(" [Malformed Packet]")
        end
        return fine and taken or tvb:len()
    end
    DissectorTable.get("ip.proto"):add(name == "icmp" and 1 or 58, carrier)
end
