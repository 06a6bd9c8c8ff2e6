// SPDX-License-Identifier: Apache-2.0
#include "base/text.h"

#include <utility>

namespace imagefs {
namespace {

constexpr uint32_t kInvalid = UINT32_MAX;

// Returns the first character of `text` and its length in bytes; kInvalid and 1 if it is malformed.
std::pair<uint32_t, size_t> FirstCharacter(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(0);
  if (lead < 0x80) return {lead, 1};
  const size_t size = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
  if (lead < 0xc2 || lead > 0xf4 || text.size() < size) return {kInvalid, 1};
  uint32_t character = lead & (0x7f >> size);
  for (size_t i = 1; i < size; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return {kInvalid, 1};
    character = character << 6 | (byte(i) & 0x3f);
  }
  // An overlong encoding, a surrogate, or beyond the last code point.
  const bool longer = (size == 3 && character < 0x800) || (size == 4 && character < 0x10000);
  if (longer || (character >= 0xd800 && character < 0xe000) || character > 0x10ffff) {
    return {kInvalid, 1};
  }
  return {character, size};
}

bool IsControl(uint32_t character) {
  return character == kInvalid || character < 0x20 || (character >= 0x7f && character < 0xa0) ||
         character == 0x2028 || character == 0x2029;
}

// Bidirectional formatting characters.
bool TurnsDirection(uint32_t character) {
  return character == 0x61c || character == 0x200e || character == 0x200f ||
         (character >= 0x202a && character <= 0x202e) ||
         (character >= 0x2066 && character <= 0x2069);
}

std::string Escaped(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const auto [character, size] = FirstCharacter(text);
    const std::string_view bytes = text.substr(0, size);
    if (IsControl(character) || TurnsDirection(character)) {
      out += absl::CHexEscape(ToAbsl(bytes));
    } else {
      out += bytes;
    }
    text.remove_prefix(size);
  }
  return out;
}

bool Continues(char c) { return (static_cast<unsigned char>(c) & 0xc0) == 0x80; }

}  // namespace

bool IsUtf8(std::string_view text) {
  while (!text.empty()) {
    const auto [character, size] = FirstCharacter(text);
    if (character == kInvalid) return false;
    text.remove_prefix(size);
  }
  return true;
}

bool HasControls(std::string_view text) {
  while (!text.empty()) {
    const auto [character, size] = FirstCharacter(text);
    if (IsControl(character)) return true;
    text.remove_prefix(size);
  }
  return false;
}

std::string PrintableName(std::string_view name, size_t max_bytes) {
  if (name.size() <= max_bytes) return Escaped(name);
  // Do not cut a character in two.
  size_t head = max_bytes / 2, tail = name.size() - max_bytes / 2;
  while (head > 0 && Continues(name[head])) --head;
  while (tail < name.size() && Continues(name[tail])) ++tail;
  return StrCat(Escaped(name.substr(0, head)), "...", Escaped(name.substr(tail)));
}

}  // namespace imagefs
