"""Korean questions by type of entity and attribute.

Particles follow a common noun, or are the invariable "의", because others
depend on how the name ends.
"""

QUESTIONS: dict[str, dict[str, tuple[str, ...]]] = {
  "painter": {
    "birth_date": (
      "화가 {name}의 생년월일은 언제인가요?",
      "{name} 화백은 언제 태어났나요?",
      "화가 {name}의 출생일은 언제인가?",
    ),
    "birthplace": (
      "화가 {name}의 출생지는 어디인가요?",
      "{name} 화백은 어디에서 태어났나요?",
      "화가 {name}의 고향은 어디인가?",
    ),
    "death_date": (
      "화가 {name}의 사망일은 언제인가요?",
      "{name} 화백은 언제 세상을 떠났나요?",
    ),
    "teacher": (
      "화가 {name}의 스승은 누구인가요?",
      "{name} 화백은 누구에게 그림을 배웠나요?",
    ),
    "spouse": (
      "화가 {name}의 아내는 누구인가요?",
      "{name} 화백은 누구와 결혼했나요?",
    ),
    "burial_place": (
      "화가 {name}의 무덤은 어디에 있나요?",
      "{name} 화백은 어디에 묻혔나요?",
    ),
  },
  "town": {
    "founding_date": (
      "{name} 마을은 언제 세워졌나요?",
      "{name} 시가 건설된 날짜는 언제인가?",
    ),
    "founder": (
      "{name} 마을을 세운 사람은 누구인가요?",
      "{name} 시의 설립자는 누구인가?",
    ),
    "population": (
      "{name} 시의 인구는 몇 명인가요?",
      "{name} 시의 인구는 얼마나 되나요?",
      "{name} 마을에는 몇 명이 살고 있나요?",
    ),
    "river": (
      "{name} 시에는 어떤 강이 흐르나요?",
      "{name} 마을은 어느 강가에 있는가?",
    ),
    "mayor": (
      "{name} 시의 시장은 누구인가요?",
      "{name} 시의 현재 시장은 누구인가?",
    ),
    "elevation": (
      "{name} 시는 해발 몇 미터에 있나요?",
      "{name} 마을의 해발 고도는 얼마인가?",
    ),
  },
  "river": {
    "length": (
      "{name} 강의 길이는 얼마인가요?",
      "{name} 강의 총 길이는 몇 킬로미터인가?",
    ),
    "source": (
      "{name} 강의 발원지는 어디인가요?",
      "{name} 강은 어느 산에서 시작되는가?",
    ),
    "mouth": (
      "{name} 강은 어디로 흘러 들어가나요?",
      "{name} 강은 어느 호수로 흘러 들어가는가?",
    ),
    "largest_town": (
      "{name} 강가에서 가장 큰 도시는 어디인가요?",
      "{name} 강 유역의 최대 도시는 어디인가?",
    ),
    "basin_area": (
      "{name} 강의 유역 면적은 얼마인가요?",
      "{name} 강의 유역 면적은 몇 제곱킬로미터인가?",
    ),
    "explorer": (
      "{name} 강의 지도를 처음 그린 사람은 누구인가요?",
      "{name} 강을 처음으로 측량한 탐험가는 누구인가?",
    ),
  },
  "mountain": {
    "height": (
      "{name} 산의 높이는 몇 미터인가요?",
      "{name} 산은 얼마나 높은가?",
    ),
    "first_ascent": (
      "{name} 산은 언제 처음으로 등정되었나요?",
      "{name} 산의 첫 등정 날짜는 언제인가?",
    ),
    "first_climber": (
      "{name} 산에 처음 오른 사람은 누구인가요?",
      "{name} 산을 최초로 등정한 사람은 누구인가?",
    ),
    "range": (
      "{name} 산은 어느 산맥에 속하나요?",
      "{name} 산이 있는 산맥의 이름은 무엇인가?",
    ),
    "nearest_village": (
      "{name} 산에서 가장 가까운 마을은 어디인가요?",
      "{name} 산 기슭에 있는 마을은 어디인가?",
    ),
    "namesake": (
      "{name} 산의 이름은 누구의 이름에서 따왔나요?",
      "{name} 산은 누구의 이름을 딴 산인가?",
    ),
  },
  "company": {
    "founding_date": (
      "{name} 회사는 언제 설립되었나요?",
      "{name} 사의 설립일은 언제인가?",
    ),
    "founder": (
      "{name} 회사의 창업자는 누구인가요?",
      "{name} 사를 설립한 사람은 누구인가?",
    ),
    "headquarters": (
      "{name} 회사의 본사는 어디에 있나요?",
      "{name} 사의 본사는 어느 도시에 있는가?",
    ),
    "employees": (
      "{name} 회사의 직원은 몇 명인가요?",
      "{name} 사의 직원 수는 얼마나 되는가?",
    ),
    "director": (
      "{name} 회사의 사장은 누구인가요?",
      "{name} 사의 현재 대표는 누구인가?",
    ),
    "factory": (
      "{name} 회사의 가장 큰 공장은 어디에 있나요?",
      "{name} 사의 주요 공장은 어디에 있는가?",
    ),
  },
  "museum": {
    "opening_date": (
      "{name} 박물관은 언제 문을 열었나요?",
      "{name} 박물관의 개관일은 언제인가?",
    ),
    "architect": (
      "{name} 박물관을 설계한 사람은 누구인가요?",
      "{name} 박물관의 건축가는 누구인가?",
    ),
    "collection_size": (
      "{name} 박물관의 소장품은 몇 점인가요?",
      "{name} 박물관에는 소장품이 얼마나 있는가?",
    ),
    "location": (
      "{name} 박물관은 어디에 있나요?",
      "{name} 박물관이 있는 도시는 어디인가?",
    ),
    "director": (
      "{name} 박물관의 관장은 누구인가요?",
      "{name} 박물관의 현재 관장은 누구인가?",
    ),
    "visitors": (
      "{name} 박물관의 연간 관람객은 몇 명인가요?",
      "{name} 박물관에는 일 년에 몇 명이 방문하는가?",
    ),
  },
  "novel": {
    "publication_date": (
      "소설 '{name}'의 출판일은 언제인가요?",
      "'{name}' 소설은 언제 출간되었는가?",
    ),
    "author": (
      "소설 '{name}'의 작가는 누구인가요?",
      "'{name}' 소설을 쓴 사람은 누구인가?",
    ),
    "hero": (
      "소설 '{name}'의 주인공은 누구인가요?",
      "'{name}' 소설의 주인공 이름은 무엇인가?",
    ),
    "setting": (
      "소설 '{name}'의 배경은 어디인가요?",
      "'{name}' 소설은 어느 도시를 배경으로 하는가?",
    ),
    "translator": (
      "소설 '{name}'의 영어 번역가는 누구인가요?",
      "'{name}' 소설을 영어로 옮긴 사람은 누구인가?",
    ),
    "print_run": (
      "소설 '{name}'의 초판은 몇 부 인쇄되었나요?",
      "'{name}' 소설의 초판 발행 부수는 얼마인가?",
    ),
  },
}
