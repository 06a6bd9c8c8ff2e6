// Text in std::string_view. Debian's Abseil is built with a string_view of its own, to which
// std::string_view does not convert, so StrCat and a few more are wrapped here: code of the project
// uses these (and std::string_view's own starts_with, ends_with, find). Pure functions.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace imagefs {

inline absl::string_view ToAbsl(std::string_view text) { return {text.data(), text.size()}; }
inline std::string_view ToStd(absl::string_view text) { return {text.data(), text.size()}; }

namespace internal {
inline absl::string_view ForAbsl(std::string_view text) { return ToAbsl(text); }
template <typename T>
std::enable_if_t<!std::is_convertible_v<const T&, std::string_view>, const T&> ForAbsl(
    const T& value) {
  return value;
}
}  // namespace internal

// absl::StrCat and absl::StrAppend, also for std::string_view.
template <typename... Args>
std::string StrCat(const Args&... args) {
  return absl::StrCat(internal::ForAbsl(args)...);
}
template <typename... Args>
void StrAppend(std::string* out, const Args&... args) {
  absl::StrAppend(out, internal::ForAbsl(args)...);
}

// Text out of hostile input, fit for one line of a message: at most `max_bytes` of it, what is not
// printable ASCII escaped.
inline std::string Printable(std::string_view text, size_t max_bytes = 200) {
  std::string out = absl::CHexEscape(ToAbsl(text.substr(0, max_bytes)));
  if (text.size() > max_bytes) out += "...";
  return out;
}

// True for well-formed UTF-8, as the strings of the control protocol have to be.
bool IsUtf8(std::string_view text);

// True when `text` has a byte that is no printable text: control characters (also those of two
// bytes), the end of a line, and what is not UTF-8.
bool HasControls(std::string_view text);

// A name that somebody chose (a path, a reference), fit for one line of a message: text stays as it
// is, control characters, those that turn the direction of writing, and what is not UTF-8 are
// escaped ("\n", "\x1b"). Of a name of more than `max_bytes` the middle is left out, since the last
// part of a path tells most.
std::string PrintableName(std::string_view name, size_t max_bytes = 200);

// A message with the middle left out where it has more than `max_bytes`: somebody's input is in it.
inline std::string Shortened(std::string_view text, size_t max_bytes = 2000) {
  if (text.size() <= max_bytes) return std::string(text);
  const size_t half = max_bytes / 2;
  return StrCat(text.substr(0, half), "...", text.substr(text.size() - half));
}

// The parts between separators; one empty part for an empty text. The views point into `text`.
inline std::vector<std::string_view> Split(std::string_view text, char separator) {
  std::vector<std::string_view> out;
  while (true) {
    const size_t at = text.find(separator);
    out.push_back(text.substr(0, at));
    if (at == std::string_view::npos) return out;
    text.remove_prefix(at + 1);
  }
}

inline bool ConsumePrefix(std::string_view* text, std::string_view prefix) {
  if (!text->starts_with(prefix)) return false;
  text->remove_prefix(prefix.size());
  return true;
}

// Decimal digits only: no sign, no blanks. Absent when empty or too large.
inline std::optional<uint64_t> ParseDecimal(std::string_view text) {
  if (text.empty()) return std::nullopt;
  uint64_t value = 0;
  for (char c : text) {
    if (c < '0' || c > '9') return std::nullopt;
    if (__builtin_mul_overflow(value, uint64_t{10}, &value) ||
        __builtin_add_overflow(value, static_cast<uint64_t>(c - '0'), &value)) {
      return std::nullopt;
    }
  }
  return value;
}

inline std::string ToLower(std::string_view text) {
  std::string out(text);
  for (char& c : out) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return out;
}

}  // namespace imagefs
