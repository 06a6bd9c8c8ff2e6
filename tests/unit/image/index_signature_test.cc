// SPDX-License-Identifier: Apache-2.0
#include "image/index_signature.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/text.h"
#include "image/index_bundle.h"

namespace imagefs {
namespace {

// Two keys created by minisign -G -W for these tests.
constexpr char kPublicA[] = "RWSKNqp+nTqvMI32F6xbm56YB+QBPKZe5q9alOdgEbnS5gQLCdsIhlNU";
constexpr char kSecretA[] =
    "untrusted comment: minisign encrypted secret key\n"
    "RWQAAEIyAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAijaqfp06rzDY6bBFErEYUC"
    "l0"
    "wSM/"
    "jLHHohtOmXvX8oGbYQ1igrugV432F6xbm56YB+QBPKZe5q9alOdgEbnS5gQLCdsIhlNUAAAAAAAAAAAAAAAAAAAAAAAA"
    "AAAAAAAAAAAAAAAAAAA=\n";
constexpr char kPublicB[] = "RWTiJZ1XCWCgfC0QYtNBPsEqukNYmXjYNIAT3xV6N8v5rEA7t+Ckg+oG";
constexpr char kSecretB[] =
    "untrusted comment: minisign encrypted secret key\n"
    "RWQAAEIyAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA4iWdVwlgoHwwMJ1eoYV7Bg"
    "Uw"
    "8QMdFze/"
    "HCAcCTUc9BwB2m05FTj1QS0QYtNBPsEqukNYmXjYNIAT3xV6N8v5rEA7t+Ckg+oGAAAAAAAAAAAAAAAAAAAAAAAA"
    "AAAAAAAAAAAAAAAAAAA=\n";

Digest D(std::string_view text) { return Sha256Of(text); }

std::string Sign(const std::string& secret, std::string_view message) {
  absl::StatusOr<MinisignSecretKey> key = MinisignSecretKey::Parse(secret, "");
  EXPECT_TRUE(key.ok()) << key.status();
  return *key->Sign(message, "for a test");
}

class IndexSignatureTest : public ::testing::Test {
 protected:
  IndexSignatureTest() {
    artifact_.artifact_type = std::string(kIndexArtifactType);
    artifact_.subject.emplace();
    artifact_.subject->digest = D("image");
    for (const char* name : {"one", "two"}) {
      Descriptor layer;
      layer.media_type = kLayerIndexMediaType;
      layer.digest = D(StrCat("bundle of ", name));
      layer.size = 1000;
      layer.annotations[std::string(kLayerAnnotation)] = D(name).ToString();
      layer.annotations[std::string(kDiffIdAnnotation)] = D(StrCat("tar of ", name)).ToString();
      artifact_.layers.push_back(layer);
    }
    Descriptor profile;
    profile.media_type = "application/vnd.imagefs.profile.v1+json";
    profile.digest = D("profile");
    profile.size = 10;
    artifact_.layers.push_back(profile);
  }
  void SignBy(const std::string& secret) {
    auto annotation = SignatureAnnotation(Sign(secret, IndexStatement(artifact_)));
    ASSERT_TRUE(annotation.ok()) << annotation.status();
    artifact_.annotations.insert(*annotation);
  }
  static IndexKeys Keys(const std::vector<std::string>& texts) {
    auto keys = IndexKeys::Parse(texts);
    EXPECT_TRUE(keys.ok()) << keys.status();
    return *keys;
  }
  Manifest artifact_;
};

TEST_F(IndexSignatureTest, TheStatementIsStable) {
  // docs/formats/published.md shows it; any change requires a new first line.
  EXPECT_EQ(
      IndexStatement(artifact_),
      StrCat("imagefs index statement 1\n"
             "artifact application/vnd.imagefs.index.v1+json\n"
             "subject ",
             D("image").ToString(), "\nlayer application/vnd.imagefs.layer-index.v2+zstd ",
             D("bundle of one").ToString(), " 1000\nannotation dev.imagefs.diff-id ",
             D("tar of one").ToString(), "\nannotation dev.imagefs.layer ", D("one").ToString(),
             "\nlayer application/vnd.imagefs.layer-index.v2+zstd ", D("bundle of two").ToString(),
             " 1000\nannotation dev.imagefs.diff-id ", D("tar of two").ToString(),
             "\nannotation dev.imagefs.layer ", D("two").ToString(),
             "\nlayer application/vnd.imagefs.profile.v1+json ", D("profile").ToString(), " 10\n"));
}

TEST_F(IndexSignatureTest, ASignedIndexIsBelieved) {
  EXPECT_TRUE(absl::IsNotFound(Keys({kPublicA}).Verify(artifact_)));
  SignBy(kSecretA);
  EXPECT_TRUE(Keys({kPublicA}).Verify(artifact_).ok());
  EXPECT_TRUE(Keys({kPublicB, kPublicA}).Verify(artifact_).ok());
  EXPECT_TRUE(absl::IsNotFound(Keys({kPublicB}).Verify(artifact_)));
  EXPECT_TRUE(absl::IsNotFound(IndexKeys().Verify(artifact_)));
  EXPECT_TRUE(IndexKeys().empty());
  EXPECT_FALSE(Keys({kPublicA}).empty());
}

TEST_F(IndexSignatureTest, SeveralMaySign) {
  SignBy(kSecretA);
  SignBy(kSecretB);
  EXPECT_EQ(artifact_.annotations.size(), 2u);
  EXPECT_TRUE(Keys({kPublicA}).Verify(artifact_).ok());
  EXPECT_TRUE(Keys({kPublicB}).Verify(artifact_).ok());
  // An invalid signature does not invalidate a valid one.
  artifact_
      .annotations[StrCat(kSignatureAnnotationPrefix, MinisignPublicKey::Parse(kPublicB)->id())] =
      "nonsense";
  EXPECT_TRUE(Keys({kPublicB, kPublicA}).Verify(artifact_).ok());
  EXPECT_TRUE(Keys({kPublicA, kPublicB}).Verify(artifact_).ok());
  EXPECT_TRUE(absl::IsDataLoss(Keys({kPublicB}).Verify(artifact_)));
}

// Modifies everything that a reader of the index uses, in every way that could help an attacker.
std::vector<Manifest> Variants(const Manifest& good) {
  std::vector<Manifest> out;
  auto with = [&](auto change) {
    out.push_back(good);
    change(out.back());
  };
  with([](Manifest& m) { m.artifact_type += "x"; });
  with([](Manifest& m) { m.subject->digest = D("another image"); });
  with([](Manifest& m) { m.subject.reset(); });
  with([](Manifest& m) { std::swap(m.layers[0], m.layers[1]); });
  with([](Manifest& m) { m.layers.pop_back(); });
  with([](Manifest& m) { m.layers.erase(m.layers.begin()); });
  with([](Manifest& m) { m.layers.push_back(m.layers[0]); });
  with([](Manifest& m) { m.layers.clear(); });
  for (size_t i = 0; i < good.layers.size(); ++i) {
    with([i](Manifest& m) { m.layers[i].media_type += "x"; });
    with([i](Manifest& m) { m.layers[i].media_type.clear(); });
    with([i](Manifest& m) { m.layers[i].size += 1; });
    with([i](Manifest& m) { m.layers[i].size *= 10; });
    with([i](Manifest& m) { m.layers[i].annotations["dev.imagefs.new"] = ""; });
    for (size_t bit = 0; bit < 256; ++bit) {
      with([i, bit](Manifest& m) {
        auto bytes = m.layers[i].digest.bytes();
        bytes[bit / 8] ^= static_cast<uint8_t>(1 << bit % 8);
        m.layers[i].digest = Digest(bytes);
      });
    }
    for (const auto& annotation : good.layers[i].annotations) {
      // Not a structured binding, which clang 14 lets no lambda capture.
      const std::string &name = annotation.first, &value = annotation.second;
      with([&](Manifest& m) { m.layers[i].annotations.erase(name); });
      with([&](Manifest& m) { m.layers[i].annotations[name].clear(); });
      with([&](Manifest& m) { m.layers[i].annotations[name] += "\n"; });
      for (size_t bit = 0; bit < 8 * value.size(); ++bit) {
        with([&](Manifest& m) {
          m.layers[i].annotations[name][bit / 8] ^= static_cast<char>(1 << bit % 8);
        });
      }
    }
  }
  return out;
}

TEST_F(IndexSignatureTest, NothingOfWhatIsSignedMayChange) {
  SignBy(kSecretA);
  const IndexKeys keys = Keys({kPublicA});
  const std::vector<Manifest> variants = Variants(artifact_);
  EXPECT_GT(variants.size(), 3000u);
  std::set<std::string> statements = {IndexStatement(artifact_)};
  for (const Manifest& variant : variants) {
    EXPECT_TRUE(absl::IsDataLoss(keys.Verify(variant))) << IndexStatement(variant);
    EXPECT_TRUE(statements.insert(IndexStatement(variant)).second) << IndexStatement(variant);
  }
}

TEST_F(IndexSignatureTest, NoTextOfALiarMakesALineOfItsOwn) {
  // Merge two layers into one, through the media type or an annotation.
  const std::string statement = IndexStatement(artifact_);
  Manifest liar = artifact_;
  const Descriptor second = liar.layers[1];
  liar.layers.erase(liar.layers.begin() + 1, liar.layers.end());
  const size_t tail = statement.find("\nlayer ", statement.find("\nlayer ") + 1);
  liar.layers[0].annotations[std::string(kLayerAnnotation)] +=
      statement.substr(tail, statement.size() - tail - 1);
  EXPECT_NE(IndexStatement(liar), statement);
  for (const std::string text : {"a b", "a%20b", "a%2520b", "a\nb", "a%0Ab", "a\tb", "a\xff"}) {
    liar.layers[0].annotations["x"] = text;
    const std::string lines = IndexStatement(liar);
    EXPECT_NE(lines.find(StrCat("annotation x a", text == "a b" ? "%20b\n" : "")),
              std::string::npos);
    EXPECT_EQ(std::count(lines.begin(), lines.end(), '\n'), 7);
  }
  // Bytes cannot be moved between name and value.
  Manifest left = artifact_, right = artifact_;
  left.layers[2].annotations["a b"] = "c";
  right.layers[2].annotations["a"] = "b c";
  EXPECT_NE(IndexStatement(left), IndexStatement(right));
}

// Everything that a reader trusts in an artifact, encoded differently from the statement: every
// text with its length.
std::string Believed(const Manifest& artifact) {
  std::string out;
  auto add = [&out](std::string_view text) { StrAppend(&out, text.size(), ":", text); };
  add(artifact.artifact_type);
  add(artifact.subject.has_value() ? artifact.subject->digest.hex() : "-");
  for (const Descriptor& layer : artifact.layers) {
    add("layer");
    add(layer.media_type);
    add(layer.digest.hex());
    add(StrCat(layer.size));
    for (const auto& [name, value] : layer.annotations) {
      add("annotation");
      add(name);
      add(value);
    }
  }
  return out;
}

TEST_F(IndexSignatureTest, TwoArtifactsHaveOneStatementOnlyWhenTheyAreBelievedAlike) {
  std::mt19937 random(1);  // deterministic
  auto pick = [&random](auto... choices) {
    const std::string all[] = {std::string(choices)...};
    return all[random() % sizeof...(choices)];
  };
  auto text = [&] {
    std::string out;
    for (size_t i = random() % 3; i > 0; --i) {
      out += pick("a", " ", "\n", "%", "%20", "layer ", "annotation ", "\nlayer a", "1", "\xff");
    }
    return out;
  };
  std::map<std::string, std::string> believed_by_statement;
  std::set<std::string> all;
  for (int i = 0; i < 20'000; ++i) {
    Manifest artifact;
    artifact.artifact_type = text();
    if (random() % 4 > 0) artifact.subject.emplace().digest = D(pick("one", "two"));
    artifact.layers.resize(random() % 3);
    for (Descriptor& layer : artifact.layers) {
      layer.media_type = text();
      layer.digest = D(pick("one", "two"));
      layer.size = random() % 2;
      for (size_t k = random() % 3; k > 0; --k) layer.annotations[text()] = text();
    }
    const std::string believed = Believed(artifact);
    all.insert(believed);
    const auto [it, is_new] = believed_by_statement.emplace(IndexStatement(artifact), believed);
    ASSERT_EQ(it->second, believed) << it->first;
  }
  EXPECT_EQ(believed_by_statement.size(), all.size());
  EXPECT_GT(all.size(), 10'000u);
}

TEST_F(IndexSignatureTest, ASignatureOfAnotherImagesIndexIsWrong) {
  SignBy(kSecretA);
  Manifest other = artifact_;
  other.subject->digest = D("other");
  other.annotations = artifact_.annotations;
  EXPECT_TRUE(absl::IsDataLoss(Keys({kPublicA}).Verify(other)));
}

TEST_F(IndexSignatureTest, AnIndexOfNoImageIsNotBelieved) {
  artifact_.subject.reset();
  SignBy(kSecretA);
  EXPECT_TRUE(absl::IsDataLoss(Keys({kPublicA}).Verify(artifact_)));
}

TEST_F(IndexSignatureTest, ASignatureInTheNameOfAnotherKeyIsWrong) {
  const std::string name =
      StrCat(kSignatureAnnotationPrefix, MinisignPublicKey::Parse(kPublicA)->id());
  artifact_.annotations[name] = Sign(kSecretB, IndexStatement(artifact_));
  EXPECT_TRUE(absl::IsDataLoss(Keys({kPublicA}).Verify(artifact_)));
  EXPECT_TRUE(absl::IsNotFound(Keys({kPublicB}).Verify(artifact_)));
  EXPECT_TRUE(SignatureAnnotations(artifact_).empty());
}

TEST_F(IndexSignatureTest, KeysThatShareAnIdAreBothTried) {
  SignBy(kSecretA);
  // A's id, B's point. The last shared digit holds bits of both, so use one that parses.
  std::string twin(kPublicB);
  twin.replace(0, 13, std::string(kPublicA).substr(0, 13));
  ASSERT_EQ(MinisignPublicKey::Parse(twin)->id(), MinisignPublicKey::Parse(kPublicA)->id());
  EXPECT_TRUE(absl::IsDataLoss(Keys({twin}).Verify(artifact_)));
  EXPECT_TRUE(Keys({twin, kPublicA}).Verify(artifact_).ok());
  EXPECT_TRUE(Keys({kPublicA, twin}).Verify(artifact_).ok());
}

TEST_F(IndexSignatureTest, KeepsWhatAreSignaturesByTheirForm) {
  SignBy(kSecretA);
  const auto signature = artifact_.annotations;
  artifact_.annotations["org.example.note"] = "kept by nobody";
  artifact_.annotations[StrCat(kSignatureAnnotationPrefix, "0000000000000000")] = "nonsense";
  artifact_.annotations[std::string(kSignatureAnnotationPrefix)] = signature.begin()->second;
  EXPECT_EQ(SignatureAnnotations(artifact_), signature);
  EXPECT_FALSE(SignatureAnnotation("nonsense").ok());
}

TEST_F(IndexSignatureTest, ReadsAnArtifactAsTheRegistrySendsIt) {
  SignBy(kSecretA);
  std::string signature;
  for (const char c : artifact_.annotations.begin()->second) {
    signature += c == '\n' ? std::string("\\n") : std::string(1, c);
  }
  const std::string descriptor = StrCat(R"("digest":")", D("image").ToString(), R"(","size":5)");
  std::string json = StrCat(
      R"({"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",)",
      R"("artifactType":"application/vnd.imagefs.index.v1+json","config":{"mediaType":"a/b",)",
      descriptor, R"(},"subject":{"mediaType":"a/b",)", descriptor, R"(},"annotations":{")",
      artifact_.annotations.begin()->first, R"(":")", signature, R"("},"layers":[)");
  for (const Descriptor& layer : artifact_.layers) {
    StrAppend(&json, R"({"mediaType":")", layer.media_type, R"(","digest":")",
              layer.digest.ToString(), R"(","size":)", layer.size, R"(,"annotations":{)");
    for (const auto& [name, value] : layer.annotations) {
      StrAppend(&json, "\"", name, R"(":")", value, "\",");
    }
    if (json.ends_with(',')) json.pop_back();
    json += "}},";
  }
  json.back() = ']';
  json += '}';
  const auto parsed = ParseManifest(json, "");
  ASSERT_TRUE(parsed.ok()) << parsed.status() << json;
  EXPECT_EQ(IndexStatement(*parsed->manifest), IndexStatement(artifact_));
  EXPECT_TRUE(Keys({kPublicA}).Verify(*parsed->manifest).ok());
}

TEST_F(IndexSignatureTest, KeysAreChecked) {
  EXPECT_FALSE(IndexKeys::Parse({kPublicA, "RWnonsense"}).ok());
  EXPECT_FALSE(IndexKeys::Parse({""}).ok());
  EXPECT_FALSE(IndexKeys::Parse({kSecretA}).ok());
  // A secret key put into the configuration by mistake must not appear in the message.
  const std::string message(IndexKeys::Parse({kSecretA}).status().message());
  EXPECT_EQ(message.find("RWQAAEIy"), std::string::npos) << message;
  EXPECT_TRUE(IndexKeys::Parse({StrCat("untrusted comment: x\n", kPublicA, "\n")}).ok());
}

}  // namespace
}  // namespace imagefs
