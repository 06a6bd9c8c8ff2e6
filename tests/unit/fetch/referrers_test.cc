// SPDX-License-Identifier: Apache-2.0
#include "fetch/referrers.h"

#include <gtest/gtest.h>

#include "base/text.h"
#include "tests/fakes/fetch/fake_registry.h"
#include "tests/fakes/fetch/pending.h"

namespace imagefs {
namespace {

constexpr char kIndexType[] = "application/vnd.oci.image.index.v1+json";
constexpr char kManifestType[] = "application/vnd.oci.image.manifest.v1+json";
constexpr char kType[] = "application/x.test+type";

std::string Entry(const std::string& name, const std::string& type = kType) {
  return StrCat("{\"mediaType\":\"", kManifestType, "\",\"digest\":\"", Sha256Of(name).ToString(),
                "\",\"size\":7,\"artifactType\":\"", type, "\",\"annotations\":{\"name\":\"", name,
                "\"}}");
}

std::string Index(const std::string& entries) {
  return StrCat("{\"schemaVersion\":2,\"mediaType\":\"", kIndexType, "\",\"manifests\":[", entries,
                "]}");
}

std::string Names(const absl::StatusOr<std::vector<Descriptor>>& found) {
  if (!found.ok()) return found.status().ToString();
  std::string names;
  for (const Descriptor& descriptor : *found) {
    const auto it = descriptor.annotations.find("name");
    StrAppend(&names, it == descriptor.annotations.end() ? "?" : it->second, " ");
  }
  return names;
}

class ReferrersTest : public testing::Test {
 protected:
  void SetUp() override { MakeFactory(); }
  void MakeFactory() {
    SourceFactory::Options options;
    options.first_backoff = std::chrono::milliseconds(1);
    options.max_attempts = 3;
    auto factory = SourceFactory::Create(options);
    ASSERT_TRUE(factory.ok()) << factory.status();
    factory_ = *std::move(factory);
  }
  std::shared_ptr<ImageSource> Open(const SourceFactory::Access& access = {}) {
    auto source = factory_->Open(*Reference::Parse(StrCat(server_.host(), "/img:1")), access);
    EXPECT_TRUE(source.ok()) << source.status();
    return *std::move(source);
  }
  absl::StatusOr<std::vector<Descriptor>> Get(const std::string& type = "") {
    return Get(*Open(), type);
  }
  absl::StatusOr<std::vector<Descriptor>> Get(ImageSource& source, const std::string& type) {
    Pending<absl::StatusOr<std::vector<Descriptor>>> pending;
    source.GetReferrers(subject_, type, CancelToken(), pending.Done());
    return pending.Wait();
  }
  void AddTag(const std::string& entries) {
    server_.AddManifest("img", ReferrersTag(subject_), Index(entries), kIndexType);
  }
  size_t ApiAsked() { return server_.RequestsFor(api_).size(); }
  size_t TagAsked() { return server_.RequestsFor(tag_).size(); }

  FakeRegistry server_;
  std::unique_ptr<SourceFactory> factory_;
  const Digest subject_ = Sha256Of("subject");
  const std::string api_ = StrCat("/v2/img/referrers/", subject_.ToString());
  const std::string tag_ = StrCat("/v2/img/manifests/", ReferrersTag(subject_));
};

TEST_F(ReferrersTest, BothPlacesAreAskedOnceAndTheApiAloneAfterwards) {
  server_.SetFeatures({.referrers = true});
  server_.AddReferrer("img", subject_, Entry("a"));
  server_.AddReferrer("img", subject_, Entry("b", "application/other"));
  AddTag(StrCat(Entry("a"), ",", Entry("old")));
  EXPECT_EQ(Names(Get()).size(), std::string("a b old ").size());
  EXPECT_EQ(ApiAsked(), 1u);
  EXPECT_EQ(TagAsked(), 1u);
  EXPECT_EQ(Names(Get()), "a b ");
  EXPECT_EQ(ApiAsked(), 2u);
  EXPECT_EQ(TagAsked(), 1u);
}

TEST_F(ReferrersTest, DescriptorsAreWhole) {
  server_.SetFeatures({.referrers = true});
  server_.AddReferrer("img", subject_, Entry("a"));
  const auto found = Get();
  ASSERT_TRUE(found.ok()) << found.status();
  ASSERT_EQ(found->size(), 1u);
  EXPECT_EQ(found->front().artifact_type, kType);
  EXPECT_EQ(found->front().media_type, kManifestType);
  EXPECT_EQ(found->front().digest, Sha256Of("a"));
  EXPECT_EQ(found->front().size, 7u);
  EXPECT_EQ(found->front().annotations.at("name"), "a");
}

TEST_F(ReferrersTest, FilteredHereWhateverTheRegistryDoes) {
  for (const bool filters : {true, false}) {
    MakeFactory();
    server_.SetFeatures({.referrers = true, .filters = filters});
    if (filters) {
      server_.AddReferrer("img", subject_, Entry("a"));
      server_.AddReferrer("img", subject_, Entry("b", "application/other"));
    }
    EXPECT_EQ(Names(Get(kType)), "a ");
  }
  EXPECT_EQ(server_.RequestsFor(api_).at(0).query, "artifactType=application%2Fx.test%2Btype");
}

TEST_F(ReferrersTest, PagesAreFollowed) {
  server_.SetFeatures({.referrers = true, .page_size = 2});
  for (const char* name : {"a", "b", "c", "d", "e"}) {
    server_.AddReferrer("img", subject_, Entry(name));
  }
  EXPECT_EQ(Names(Get()), "a b c d e ");
  EXPECT_EQ(ApiAsked(), 3u);
}

TEST_F(ReferrersTest, PagesEnd) {
  server_.SetFeatures({.referrers = true});
  server_.On(api_, {.times = -1, .headers = {{"Link", StrCat("<", api_, ">; rel=\"next\"")}}});
  EXPECT_TRUE(absl::IsResourceExhausted(Get().status()));
  EXPECT_LE(ApiAsked(), 40u);
}

TEST_F(ReferrersTest, NoPageOfAnotherHost) {
  FakeRegistry other("127.0.0.2");
  server_.SetFeatures({.referrers = true});
  server_.On(api_,
             {.times = -1, .headers = {{"Link", StrCat("<", other.Url(api_), ">; rel=\"next\"")}}});
  const absl::Status status = Get().status();
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_TRUE(Mentions(status, other.host())) << status;
  EXPECT_TRUE(other.requests().empty());
}

TEST_F(ReferrersTest, APageThatFailsIsNoList) {
  server_.SetFeatures({.referrers = true, .page_size = 1});
  server_.AddReferrer("img", subject_, Entry("a"));
  server_.AddReferrer("img", subject_, Entry("b"));
  server_.On(api_, {});
  server_.On(api_, {.status = 404});
  EXPECT_TRUE(absl::IsUnavailable(Get().status()));
}

TEST_F(ReferrersTest, AMissingApiIsRememberedAndTheTagAsked) {
  for (const int status : {404, 400, 405, 406, 501}) {
    FakeRegistry::Behaviour missing;
    missing.times = -1;
    missing.status = status;
    missing.body = "page not found";
    FakeRegistry server;
    auto source = *factory_->Open(*Reference::Parse(StrCat(server.host(), "/img:1")), {});
    // Let the loopback host's protocol become known first: 400 could mean TLS.
    Pending<absl::StatusOr<ImageSource::FetchedManifest>> manifest;
    source->GetManifest("1", CancelToken(), manifest.Done());
    manifest.Wait();
    server.On(api_, missing);
    EXPECT_EQ(Names(Get(*source, "")), "") << status;
    server.AddManifest("img", ReferrersTag(subject_),
                       Index(StrCat(Entry("a"), ",", Entry("b", "application/other"))), kIndexType);
    EXPECT_EQ(Names(Get(*source, "")), "a b ") << status;
    EXPECT_EQ(Names(Get(*source, kType)), "a ") << status;
    EXPECT_EQ(server.RequestsFor(api_).size(), 1u) << status;
    EXPECT_EQ(server.RequestsFor(tag_).size(), 3u) << status;
  }
}

TEST_F(ReferrersTest, AnUnknownNameIsNoMissingApi) {
  // The fake's 404 carries NAME_UNKNOWN.
  EXPECT_EQ(Names(Get()), "");
  server_.SetFeatures({.referrers = true});
  server_.AddReferrer("img", subject_, Entry("a"));
  EXPECT_EQ(Names(Get()), "a ");
}

TEST_F(ReferrersTest, SomethingElseThanAnIndexIsAMissingApi) {
  server_.On(api_, {.times = -1,
                    .status = 200,
                    .headers = {{"Content-Type", "text/html"}},
                    .body = "<html>welcome</html>"});
  AddTag(Entry("a"));
  EXPECT_EQ(Names(Get()), "a ");
  EXPECT_EQ(Names(Get()), "a ");
  EXPECT_EQ(ApiAsked(), 1u);
}

TEST_F(ReferrersTest, HostileListsAreRefused) {
  server_.SetFeatures({.referrers = true});
  for (const std::string& entry :
       {std::string("{}"), std::string("7"),
        StrCat("{\"mediaType\":\"x\",\"digest\":\"sha256:../..\",\"size\":1}"),
        StrCat("{\"mediaType\":\"x\",\"digest\":\"", subject_.ToString(), "\",\"size\":-1}")}) {
    MakeFactory();
    server_.On(api_,
               {.status = 200, .headers = {{"Content-Type", kIndexType}}, .body = Index(entry)});
    EXPECT_TRUE(absl::IsInvalidArgument(Get().status())) << entry;
  }
  MakeFactory();
  server_.On(api_, {.body = std::string(kMaxManifestBytes + 1, ' ')});
  EXPECT_TRUE(absl::IsResourceExhausted(Get().status()));
  MakeFactory();
  server_.SetFeatures({});
  server_.On(tag_, {.status = 200, .headers = {{"Content-Type", kIndexType}}, .body = "{}"});
  EXPECT_TRUE(absl::IsInvalidArgument(Get().status()));
}

TEST_F(ReferrersTest, AnImageWithThatTagListsNothing) {
  server_.AddManifest("img", ReferrersTag(subject_),
                      StrCat("{\"schemaVersion\":2,\"config\":{\"mediaType\":\"x\",\"digest\":\"",
                             subject_.ToString(), "\",\"size\":2},\"layers\":[]}"),
                      kManifestType);
  EXPECT_EQ(Names(Get()), "");
}

TEST_F(ReferrersTest, FailuresPassOrAreReported) {
  server_.SetFeatures({.referrers = true});
  server_.AddReferrer("img", subject_, Entry("a"));
  server_.On(api_, {.times = 2, .status = 503});
  server_.On(tag_, {.close = true});
  EXPECT_EQ(Names(Get()), "a ");
  server_.On(api_, {.times = -1, .status = 500});
  EXPECT_TRUE(absl::IsUnavailable(Get().status()));
}

TEST_F(ReferrersTest, AFailureOfTheTagDoesNotMatterWhereTheApiAnswers) {
  server_.SetFeatures({.referrers = true});
  server_.AddReferrer("img", subject_, Entry("a"));
  server_.On(tag_, {.times = -1, .status = 500});
  EXPECT_EQ(Names(Get()), "a ");
  MakeFactory();
  server_.SetFeatures({});
  EXPECT_TRUE(absl::IsUnavailable(Get().status()));
}

TEST_F(ReferrersTest, TokensAreFetchedOnceForBothPlaces) {
  server_.SetFeatures({.referrers = true});
  server_.AddReferrer("img", subject_, Entry("a"));
  server_.SetAuth({.kind = FakeRegistry::Auth::Kind::kBearer});
  EXPECT_EQ(Names(Get()), "a ");
  EXPECT_EQ(server_.RequestsFor("/token").size(), 1u);
}

TEST_F(ReferrersTest, Refused) {
  server_.SetFeatures({.referrers = true});
  server_.SetAuth({.kind = FakeRegistry::Auth::Kind::kBearer});
  server_.On("/token", {.times = -1, .body = R"({"token":"worthless"})"});
  EXPECT_TRUE(absl::IsUnauthenticated(Get().status()));
}

TEST_F(ReferrersTest, Cancelled) {
  server_.On(api_, {.times = -1, .hold = true});
  const auto source = Open();
  CancelSource cancel;
  Pending<absl::StatusOr<std::vector<Descriptor>>> pending;
  source->GetReferrers(subject_, "", cancel.token(), pending.Done());
  EXPECT_TRUE(server_.WaitForRequests(api_, 1));
  cancel.Cancel();
  EXPECT_TRUE(absl::IsCancelled(pending.Wait().status()));
}

TEST(ReferrersLinkTest, Next) {
  const auto next = [](std::vector<std::string> links) {
    HttpResponse response;
    for (std::string& link : links) response.headers.emplace("link", std::move(link));
    return NextLink(response);
  };
  EXPECT_EQ(next({}), "");
  EXPECT_EQ(next({"</v2/x?n=1>; rel=\"next\""}), "/v2/x?n=1");
  EXPECT_EQ(next({"</v2/x>;rel=next"}), "/v2/x");
  EXPECT_EQ(next({"</a>; rel=\"prev\", </b>; rel=\"next\""}), "/b");
  EXPECT_EQ(next({"</a>; rel=\"prev\"", "</b>; REL=\"Next\""}), "/b");
  EXPECT_EQ(next({"</a>; rel=\"prev\""}), "");
  EXPECT_EQ(next({"</a"}), "");
  EXPECT_EQ(next({">< rel=next"}), "");
}

}  // namespace
}  // namespace imagefs
