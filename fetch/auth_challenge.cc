// SPDX-License-Identifier: Apache-2.0
#include "fetch/auth_challenge.h"

#include <algorithm>
#include <utility>

#include "base/text.h"

namespace imagefs {
namespace {

constexpr size_t kMaxChallengeBytes = 16 << 10;
constexpr size_t kMaxChallenges = 16;
constexpr size_t kMaxParams = 32;

bool IsTokenChar(char c) {
  if ((c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')) return true;
  return std::string_view("!#$%&'*+-.^_`|~").find(c) != std::string_view::npos;
}

bool IsToken68Char(char c) { return IsTokenChar(c) || c == '/' || c == '='; }

// A parser for the grammar of challenges.
class Cursor {
 public:
  explicit Cursor(std::string_view text) : text_(text) {}

  bool AtEnd() const { return text_.empty(); }
  void SkipBlanks() {
    while (!text_.empty() && (text_.front() == ' ' || text_.front() == '\t'))
      text_.remove_prefix(1);
  }
  // Blanks and commas: empty list elements are legal.
  void SkipSeparators() {
    while (!text_.empty() &&
           (text_.front() == ' ' || text_.front() == '\t' || text_.front() == ',')) {
      text_.remove_prefix(1);
    }
  }
  bool Consume(char c) {
    if (text_.empty() || text_.front() != c) return false;
    text_.remove_prefix(1);
    return true;
  }
  template <typename Predicate>
  std::string_view TakeWhile(Predicate predicate) {
    const size_t n = std::find_if_not(text_.begin(), text_.end(), predicate) - text_.begin();
    const std::string_view taken = text_.substr(0, n);
    text_.remove_prefix(n);
    return taken;
  }
  // Parses a quoted string after its opening quote; nullopt if it is unterminated.
  std::optional<std::string> TakeQuoted() {
    std::string out;
    while (!text_.empty()) {
      char c = text_.front();
      text_.remove_prefix(1);
      if (c == '"') return out;
      if (c == '\\') {
        if (text_.empty()) return std::nullopt;
        c = text_.front();
        text_.remove_prefix(1);
      }
      out.push_back(c);
    }
    return std::nullopt;
  }
  std::string_view rest() const { return text_; }
  void Reset(std::string_view text) { text_ = text; }

 private:
  std::string_view text_;
};

// Parses `name BWS "=" BWS (token | quoted)`. Returns false and leaves the cursor unchanged on a
// mismatch.
bool TakeParam(Cursor& cursor, AuthChallenge& challenge) {
  const std::string_view before = cursor.rest();
  const std::string_view name = cursor.TakeWhile(IsTokenChar);
  cursor.SkipBlanks();
  if (name.empty() || !cursor.Consume('=')) {
    cursor.Reset(before);
    return false;
  }
  cursor.SkipBlanks();
  std::optional<std::string> value;
  if (cursor.Consume('"')) {
    value = cursor.TakeQuoted();
  } else {
    // Some registries omit the quotes, even around URLs.
    value = std::string(
        cursor.TakeWhile([](char c) { return c != ',' && c != ' ' && c != '\t' && c != '"'; }));
    if (value->empty() || value->find_first_not_of('=') == std::string::npos) value.reset();
  }
  if (!value) {
    cursor.Reset(before);
    return false;
  }
  if (challenge.params.size() < kMaxParams) challenge.params.emplace(ToLower(name), *value);
  return true;
}

void TakeParams(Cursor& cursor, AuthChallenge& challenge) {
  while (TakeParam(cursor, challenge)) {
    cursor.SkipBlanks();
    const std::string_view before = cursor.rest();
    if (!cursor.Consume(',')) return;
    cursor.SkipSeparators();
    // A comma is followed by either another parameter or another challenge.
    AuthChallenge probe;
    const std::string_view next = cursor.rest();
    const bool is_param = TakeParam(cursor, probe);
    cursor.Reset(is_param ? next : before);
    if (!is_param) return;
  }
}

}  // namespace

std::string AuthChallenge::Param(std::string_view name) const {
  const auto it = params.find(std::string(name));
  return it == params.end() ? "" : it->second;
}

std::vector<AuthChallenge> ParseChallenges(std::string_view header) {
  std::vector<AuthChallenge> challenges;
  Cursor cursor(header.substr(0, kMaxChallengeBytes));
  cursor.SkipSeparators();
  while (!cursor.AtEnd() && challenges.size() < kMaxChallenges) {
    AuthChallenge challenge;
    challenge.scheme = ToLower(cursor.TakeWhile(IsTokenChar));
    if (challenge.scheme.empty()) break;
    const bool blank = cursor.rest().starts_with(' ') || cursor.rest().starts_with('\t');
    cursor.SkipBlanks();
    if (!blank && !cursor.AtEnd() && !cursor.rest().starts_with(',')) break;
    TakeParams(cursor, challenge);
    if (challenge.params.empty()) {
      challenge.token68 = std::string(cursor.TakeWhile(IsToken68Char));
    }
    challenges.push_back(std::move(challenge));
    cursor.SkipBlanks();
    if (!cursor.AtEnd() && !cursor.Consume(',')) break;
    cursor.SkipSeparators();
  }
  return challenges;
}

std::optional<AuthChallenge> UsableChallenge(const HttpResponse& response,
                                             std::string_view scheme) {
  const auto [begin, end] = response.headers.equal_range("www-authenticate");
  for (auto it = begin; it != end; ++it) {
    for (AuthChallenge& challenge : ParseChallenges(it->second)) {
      if (challenge.scheme != scheme) continue;
      if (scheme != "bearer" || !challenge.Param("realm").empty()) return std::move(challenge);
    }
  }
  return std::nullopt;
}

}  // namespace imagefs
