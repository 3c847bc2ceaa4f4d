-- The numbers of RFC 4067, of docs/context-formats.md and of IANA's IKEv2 registries, by name.
return function()
    local names = {}

    names.message = {
        [1] = "Context Transfer Activate Request (CTAR)",
        [2] = "Context Transfer Activate Acknowledge (CTAA)",
        [3] = "Context Transfer Data (CTD)",
        [4] = "Predictive Context Transfer Data (PCTD)",
        [5] = "Context Transfer Data Reply (CTDR)",
        [6] = "Context Transfer Cancel (CTC)",
        [7] = "Context Transfer Request (CT-Req)",
    }
    names.short = { "CTAR", "CTAA", "CTD", "PCTD", "CTDR", "CTC", "CT-Req" }
    names.feature_profile_type = {
        [0] = "the transfer as a whole",
        [1] = "IPv6 multicast listener",
        [0xFF00] = "continuation",
        [0xFF01] = "IKE_SA",
        [0xFF02] = "IPsec_SA",
        [0xFF03] = "transfer manifest",
        [0xFF04] = "replica",
    }
    names.status = {
        [0] = "SUCCESS", "BAD_CHECKSUM", "UNKNOWN_FEATURE_PROFILE_TYPE", "MALFORMED", "MANDATORY_PARAMETER_MISSING",
        "UNSUPPORTED_ALGORITHM", "INSTALL_FAILED", "NO_SUCH_CONTEXT", "NOT_AUTHORIZED", "SPI_COLLISION", "STALE",
        "UNSUPPORTED_PARAMETER", "NO_RESOURCES", "STORE_FAILED", "TIMED_OUT", "CANCELLED",
        "UNKNOWN_CONNECTION",
    }
    names.token_algorithm = { [1] = "HMAC_SHA1" }
    names.token_status = { [0] = "Bad", "Good", "Unverified", "Null: asks for the material to check a token with" }
    names.level = { [0] = "M, mandatory", "O, optional", "V, vendor", "undefined" }
    names.family = { [4] = "IPv4", [6] = "IPv6" }
    names.case = {
        [1] = "Diffie-Hellman private key", [2] = "SKEYSEED", [3] = "SK_*", [4] = "Diffie-Hellman shared secret",
    }
    names.credentials = { [1] = "pre-shared key", [2] = "certificates", [3] = "configured" }
    names.identification = {
        [1] = "ID_IPV4_ADDR", [2] = "ID_FQDN", [3] = "ID_RFC822_ADDR", [5] = "ID_IPV6_ADDR", [9] = "ID_DER_ASN1_DN",
        [10] = "ID_DER_ASN1_GN", [11] = "ID_KEY_ID",
    }
    names.knowledge = { [0] = "exact", "at least", "unknown" }
    names.mode = { "transport", "tunnel", "BEET" }
    names.protocol = { [1] = "IKE", [2] = "AH", [3] = "ESP" }
    names.selector = { [7] = "TS_IPV4_ADDR_RANGE", [8] = "TS_IPV6_ADDR_RANGE" }
    names.keymat = { "keys", "derivation" }
    names.replica = { "keep the contexts", "forget what was kept" }
    names.encryption = {
        [3] = "3DES", [11] = "NULL", [12] = "AES_CBC", [13] = "AES_CTR", [14] = "AES_CCM_8", [15] = "AES_CCM_12",
        [16] = "AES_CCM_16", [18] = "AES_GCM_8", [19] = "AES_GCM_12", [20] = "AES_GCM_16",
        [21] = "NULL_AUTH_AES_GMAC", [28] = "CHACHA20_POLY1305",
    }
    names.integrity = {
        [0] = "NONE", [2] = "HMAC_SHA1_96", [5] = "AES_XCBC_96", [8] = "AES_CMAC_96", [12] = "HMAC_SHA2_256_128",
        [13] = "HMAC_SHA2_384_192", [14] = "HMAC_SHA2_512_256",
    }
    names.prf = {
        [2] = "HMAC_SHA1", [4] = "AES128_XCBC", [5] = "HMAC_SHA2_256", [6] = "HMAC_SHA2_384", [7] = "HMAC_SHA2_512",
        [8] = "AES128_CMAC",
    }
    names.key_exchange = {
        [0] = "NONE", [2] = "MODP_1024", [5] = "MODP_1536", [14] = "MODP_2048", [15] = "MODP_3072", [16] = "MODP_4096",
        [17] = "MODP_6144", [18] = "MODP_8192", [19] = "ECP_256", [20] = "ECP_384", [21] = "ECP_521",
        [31] = "CURVE25519", [32] = "CURVE448", [35] = "ML_KEM_512", [36] = "ML_KEM_768", [37] = "ML_KEM_1024",
    }
    names.ipcomp = { "OUI", "DEFLATE", "LZS", "LZJH" }
    names.extensions = { -- docs/context-formats.md, 4.2.3, from bit value 1 on
        "nat_local", "nat_remote", "eap", "mobike", "fragmentation", "childless", "redirect", "message_id_sync",
        "replay_counter_sync", "hash_algorithms", "intermediate", "ppk", "nat_forced", "certificate_request_seen",
    }
    names.ike = {
        M = {
            "IKE version", "initiator flag", "host addresses", "SPIs", "Message IDs", nil, "cryptographic material",
            "SA proposal", "extensions", "identities", "credentials", "window",
        },
        O = { "IKE lifetime", "vendor IDs" },
        V = {},
    }
    names.ipsec = {
        M = {
            "host addresses", "SPIs", "IPComp", "sequence numbers", "anti-replay window", "mode", "lifetime",
            "path MTU", "upper-layer protocol", "traffic selectors", "protocol and algorithms", "KEYMAT",
        },
        O = { "IKE_SA" },
        V = { "processing unit" },
    }
    names.vendor = {
        [0] = {
            "CONNECTION_NAME", "REMOTE_EAP_IDENTITY", "LOCAL_VIRTUAL_ADDRESSES", "REMOTE_VIRTUAL_ADDRESSES",
            "PEER_ADDRESSES", "CHILD_NAME",
        },
        [36906] = {
            "CONDITIONS", "EXTENSIONS", "PRIVATE_CONDITIONS", "PRIVATE_EXTENSIONS", "AUTH_METHOD", "SEGMENT",
        },
    }
    names.enterprise = { [0] = "this project", [36906] = "strongSwan" }
    return names
end
