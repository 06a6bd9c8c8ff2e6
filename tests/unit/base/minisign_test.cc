// SPDX-License-Identifier: Apache-2.0
#include "base/minisign.h"

#include <gtest/gtest.h>

#include <string>
#include <string_view>
#include <utility>

#include "base/text.h"

namespace imagefs {
namespace {

// Created by minisign 0.11 (-G -W, -G, -S, -S -l).
constexpr std::string_view kPublic = "RWSKNqp+nTqvMI32F6xbm56YB+QBPKZe5q9alOdgEbnS5gQLCdsIhlNU";
constexpr std::string_view kPublicFile =
    "untrusted comment: minisign public key 30AF3A9D7EAA368A\n"
    "RWSKNqp+nTqvMI32F6xbm56YB+QBPKZe5q9alOdgEbnS5gQLCdsIhlNU\n";
constexpr std::string_view kSecretFile =
    "untrusted comment: minisign encrypted secret key\n"
    "RWQAAEIyAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAijaqfp06rzDY6bBFErEYUC"
    "l0wSM/"
    "jLHHohtOmXvX8oGbYQ1igrugV432F6xbm56YB+"
    "QBPKZe5q9alOdgEbnS5gQLCdsIhlNUAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
    "AAAAAAA=\n";
// The same key with the password "correct horse" and the lowest possible cost.
constexpr std::string_view kLockedFile =
    "untrusted comment: minisign encrypted secret key\n"
    "RWRTY0IyAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8AgAAAAAAAAAAAAAEAAAAAlZee"
    "9sm7Ja6WeYeVU/nPy9F6Ju/3GdXeO0zsPviE3QEmWpoPW54lk+KBiuYBbXrfkb41AjhJ2MWVgNKn"
    "36jkKJgWR+mkXBB/SLygv8VISqYRHlsasRW6i11auMfeZP/y1r4VjTJ7I6s=\n";
constexpr std::string_view kMessage = "hello\n";
constexpr std::string_view kSignature =
    "untrusted comment: signature from minisign secret key\n"
    "RUSKNqp+nTqvMDdxLQB8EFJ0l29C7vqLkgkMYzV9EIJi9hiohrgfdxAgmrU58m7a4M3ulyQp5zv4rFVX+"
    "NZGmWw2zxLirbG01QA=\n"
    "trusted comment: a trusted comment\n"
    "N8JXKYmcJrbaWQIhRPsMqhAzOZxrcZ76CE5ZfVmNEY5+wQ7GEYbhREfLhJoIBOJNMpVl7Yp6ZBmzcR8UVhPUBA==\n";
constexpr std::string_view kLegacy =
    "untrusted comment: signature from minisign secret key\n"
    "RWSKNqp+nTqvMBUl45MBsCmJBLbhkJphxBOzZumxsZvMBclZMX+A0wppEOFK2tiy4C3nht2xlq57NQU/"
    "6veiKIpaWIt4fqhpgQM=\n"
    "trusted comment: timestamp:1795906252\tfile:msg\n"
    "jy+ptSpJm0+1rHgifphWnF+e1W30upsU8pUp/hTRhjSYFY5ia22wBFYYOY4zVgg92Z/VrlSAb8WMWt8K8n+gBA==\n";
constexpr std::string_view kOtherPublic =
    "RWRty2yhIJlPb4kbPWcNOWj/iESHKfOprrR++B7UbT9hg6GTW/3ZZqy3";

MinisignPublicKey Public(std::string_view text = kPublic) {
  absl::StatusOr<MinisignPublicKey> key = MinisignPublicKey::Parse(text);
  EXPECT_TRUE(key.ok()) << key.status();
  return *key;
}
MinisignSignature Signature(std::string_view text = kSignature) {
  absl::StatusOr<MinisignSignature> signature = MinisignSignature::Parse(text);
  EXPECT_TRUE(signature.ok()) << signature.status();
  return *signature;
}
MinisignSecretKey SecretKey(std::string_view file = kSecretFile, std::string_view password = "") {
  absl::StatusOr<MinisignSecretKey> key = MinisignSecretKey::Parse(file, password);
  EXPECT_TRUE(key.ok()) << key.status();
  return *std::move(key);
}
std::string Replaced(std::string_view text, std::string_view from, std::string_view to) {
  const size_t at = text.find(from);
  EXPECT_NE(at, std::string_view::npos) << from;
  return StrCat(text.substr(0, at), to, text.substr(at + from.size()));
}
TEST(MinisignTest, VerifiesWhatMinisignSigned) {
  EXPECT_EQ(Public().id(), "30AF3A9D7EAA368A");
  EXPECT_EQ(Public(kPublicFile).ToString(), kPublic);
  EXPECT_EQ(Signature().key_id(), "30AF3A9D7EAA368A");
  EXPECT_EQ(Signature().trusted_comment(), "a trusted comment");
  EXPECT_TRUE(Public().Verify(kMessage, Signature()).ok());
  // The last newline is optional.
  EXPECT_TRUE(
      Public().Verify(kMessage, Signature(kSignature.substr(0, kSignature.size() - 1))).ok());
}

TEST(MinisignTest, SignsAsMinisignDoes) {
  const MinisignSecretKey key = SecretKey();
  EXPECT_EQ(key.public_key().ToString(), kPublic);
  const absl::StatusOr<std::string> text = key.Sign(kMessage, "a trusted comment");
  ASSERT_TRUE(text.ok()) << text.status();
  // Ed25519 is deterministic: only the untrusted comment may differ.
  EXPECT_EQ(text->substr(text->find('\n')), kSignature.substr(kSignature.find('\n')));
}

TEST(MinisignTest, ReadsAKeyWithAPassword) {
  EXPECT_TRUE(*MinisignSecretKey::NeedsPassword(kLockedFile));
  EXPECT_FALSE(*MinisignSecretKey::NeedsPassword(kSecretFile));
  EXPECT_EQ(SecretKey(kLockedFile, "correct horse").public_key().ToString(), kPublic);
  for (const std::string_view wrong : {"", "correct hors", "correct horse ", "Correct horse"}) {
    EXPECT_TRUE(absl::IsPermissionDenied(MinisignSecretKey::Parse(kLockedFile, wrong).status()))
        << wrong;
  }
}

TEST(MinisignTest, AnotherMessageDoesNotVerify) {
  for (const std::string_view other : {"", "hello", "hello\n\n", "Hello\n"}) {
    EXPECT_TRUE(absl::IsDataLoss(Public().Verify(other, Signature()))) << other;
  }
}

TEST(MinisignTest, AnotherKeyDoesNotVerify) {
  EXPECT_TRUE(absl::IsNotFound(Public(kOtherPublic).Verify(kMessage, Signature())));
}

TEST(MinisignTest, AnotherKeyInTheNameOfThisOneDoesNotVerify) {
  // An id is a random number that anybody may copy. This combines this key's id with the other's
  // point: base64 digits 0 to 11 hold the algorithm, the 8-byte id and the first half of a byte of
  // the point, so the last two of those digits remain the other's.
  const std::string other(kOtherPublic);
  for (size_t at = 2; at < 13; ++at) {
    std::string mixed = other;
    mixed.replace(0, at, kPublic.substr(0, at));
    const MinisignPublicKey key = Public(mixed);
    EXPECT_FALSE(key.Verify(kMessage, Signature()).ok()) << at;
    if (key.id() == Public().id()) {
      EXPECT_TRUE(absl::IsDataLoss(key.Verify(kMessage, Signature()))) << at;
    }
  }
}

TEST(MinisignTest, EveryDigitOfASignatureCounts) {
  const size_t comment = std::string_view("untrusted comment: ").size();
  size_t parsed = 0;
  for (size_t at = 0; at < kSignature.size(); ++at) {
    if (at >= comment && at < kSignature.find('\n')) continue;  // not authenticated
    for (const char digit : {'A', 'B', '/', ' ', '\n', '='}) {
      if (kSignature[at] == digit) continue;
      std::string text(kSignature);
      text[at] = digit;
      const auto signature = MinisignSignature::Parse(text);
      if (!signature.ok()) continue;
      ++parsed;
      EXPECT_FALSE(Public().Verify(kMessage, *signature).ok()) << at << digit;
    }
  }
  EXPECT_GT(parsed, 400u);  // most changes do reach Verify
}

TEST(MinisignTest, EveryDigitOfAPublicKeyCounts) {
  for (size_t at = 0; at < kPublic.size(); ++at) {
    for (const char digit : {'A', 'B', '/', '=', ' ', '\n'}) {
      if (kPublic[at] == digit) continue;
      std::string text(kPublic);
      text[at] = digit;
      const auto key = MinisignPublicKey::Parse(text);
      EXPECT_FALSE(key.ok() && key->Verify(kMessage, Signature()).ok()) << text;
    }
  }
}

TEST(MinisignTest, RefusesWhatIsNoSignature) {
  const std::string good(kSignature);
  for (const std::string& text : {
           std::string(),
           good.substr(0, good.size() - 2),                  // truncated
           good.substr(0, good.find("trusted comment: a")),  // the first half alone
           good + "\n",                                      // a trailing empty line
           good + good,                                      // two signatures
           good + "x",                                       // trailing garbage
           "\n" + good,                                      // leading garbage
           Replaced(good, "untrusted comment: ", "comment: "),
           Replaced(good, "\ntrusted comment: ", "\ncomment: "),
           Replaced(good, "a trusted", "a \x1b[2Jtrusted"),  // unsafe for a terminal
           Replaced(good, "signature from", "signature\rfrom"),
           Replaced(good, "01QA=", "01QB="),  // non-canonical base64
           Replaced(good, "01QA=", "01QA"),
           Replaced(good, "01QA=", "01QAA"),
           Replaced(good, "RUSK", "RVSK"),  // an unknown algorithm
           Replaced(good, "a trusted", std::string(MinisignSignature::kMaxBytes, 'a')),
       }) {
    EXPECT_TRUE(absl::IsInvalidArgument(MinisignSignature::Parse(text).status()))
        << text.substr(0, 500);
  }
  const absl::Status legacy = MinisignSignature::Parse(kLegacy).status();
  EXPECT_NE(legacy.message().find("legacy"), absl::string_view::npos) << legacy;
}

TEST(MinisignTest, RefusesWhatIsNoPublicKey) {
  const std::string file(kPublicFile);
  for (const std::string& text :
       {std::string(), std::string("RW"), std::string(kSecretFile), std::string(kSignature),
        file.substr(0, file.size() - 2), file + file, file + "\n", StrCat(kPublic, "A"),
        StrCat(kPublic, " "), StrCat(" ", kPublic), StrCat(kPublic, kPublic),
        Replaced(kPublic, "RWS", "RUS")}) {
    EXPECT_TRUE(absl::IsInvalidArgument(MinisignPublicKey::Parse(text).status())) << text;
  }
}

TEST(MinisignTest, RefusesWhatIsNoSecretKey) {
  const std::string file(kSecretFile);
  for (const std::string& text :
       {std::string(), std::string(kPublicFile), file.substr(0, file.size() - 2), file + file,
        Replaced(file, "RWQA", "RUQA"),      // an unknown algorithm
        Replaced(file, "AAEIyA", "AAEIzA"),  // an unknown checksum
        std::string("-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n"),
        std::string(MinisignSecretKey::kMaxFileBytes + 1, 'a')}) {
    EXPECT_TRUE(absl::IsInvalidArgument(MinisignSecretKey::Parse(text, "").status())) << text;
    EXPECT_TRUE(absl::IsInvalidArgument(MinisignSecretKey::NeedsPassword(text).status()));
  }
  // The seed and the public key do not match.
  const std::string damaged = Replaced(file, "zDY6bBF", "zDY6bBG");
  EXPECT_NE(MinisignSecretKey::Parse(damaged, "").status().message().find("damaged"),
            absl::string_view::npos);
}

TEST(MinisignTest, RefusesAKeyThatAsksForTooMuch) {
  // The highest byte of the memory (little-endian): 2^56 bytes and more.
  const std::string greedy = Replaced(kLockedFile, "AAAAEAAAAA", "AAAAEAAAAB");
  const absl::Status status = MinisignSecretKey::Parse(greedy, "correct horse").status();
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_NE(status.message().find("2 GiB"), absl::string_view::npos) << status;
}

TEST(MinisignTest, TheTrustedCommentIsOneLine) {
  const MinisignSecretKey key = SecretKey();
  EXPECT_FALSE(key.Sign(kMessage, "a\nb").ok());
  EXPECT_FALSE(key.Sign(kMessage, std::string(9000, 'a')).ok());
  const auto text = key.Sign("", "");
  ASSERT_TRUE(text.ok());
  EXPECT_TRUE(Public().Verify("", Signature(*text)).ok());
  EXPECT_FALSE(Public().Verify("", Signature(Replaced(*text, "comment: \n", "comment: x\n"))).ok());
}

TEST(MinisignTest, AMovedSecretKeyIsGone) {
  MinisignSecretKey first = SecretKey();
  const MinisignSecretKey second = std::move(first);
  EXPECT_TRUE(Public().Verify("m", Signature(*second.Sign("m", ""))).ok());
  EXPECT_FALSE(Public()
                   .Verify("m", Signature(*first.Sign("m", "")))
                   .ok());  // NOLINT(bugprone-use-after-move)
}

}  // namespace
}  // namespace imagefs
