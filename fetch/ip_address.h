// IPv4 and IPv6 addresses, ranges of them, and what kind of network one belongs to. Values; pure
// functions.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

struct sockaddr;

namespace imagefs {

// What an address gives access to. From the special-purpose registries of IANA (RFC 6890) and the
// documentation of the clouds.
enum class AddressClass {
  kPublic,
  kPrivate,    // 10/8, 172.16/12, 192.168/16, 100.64/10, fc00::/7 and the like
  kLinkLocal,  // 169.254/16, fe80::/10
  kLoopback,   // 127/8, ::1, and the unspecified address, which connects to this machine
  kMetadata,   // where a cloud gives its machines their identity
  kReserved,   // multicast, broadcast and what is in no use
};
// "a private address" and so on.
std::string_view Describe(AddressClass address_class);

class IpAddress {
 public:
  // "192.0.2.1", "2001:db8::1", the latter also in brackets; nothing else, no names.
  static std::optional<IpAddress> Parse(std::string_view text);
  static std::optional<IpAddress> Of(const sockaddr* address);

  // That of an address that carries an IPv4 address (mapped, compatible, NAT64, 6to4, Teredo,
  // ISATAP) is the carried one's where that is not public.
  AddressClass Class() const;
  std::string ToString() const;

  bool operator==(const IpAddress&) const = default;

 private:
  friend class IpPrefix;
  explicit IpAddress(std::array<uint8_t, 16> bytes) : bytes_(bytes) {}
  static IpAddress FromIpv4(const uint8_t* bytes);
  bool IsIpv4() const;
  AddressClass OwnClass() const;
  std::vector<IpAddress> Carried() const;

  std::array<uint8_t, 16> bytes_;  // IPv4 as ::ffff:a.b.c.d
};

// "10.0.0.0/8"; an address alone is a range of one.
class IpPrefix {
 public:
  static std::optional<IpPrefix> Parse(std::string_view text);
  // Also when the address carries an IPv4 address that is in it.
  bool Contains(const IpAddress& address) const;

 private:
  IpPrefix(IpAddress address, int bits) : address_(address), bits_(bits) {}
  bool ContainsItself(const IpAddress& address) const;
  IpAddress address_;
  int bits_;  // of 128
};

}  // namespace imagefs
